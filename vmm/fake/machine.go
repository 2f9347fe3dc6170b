package fake

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// machine is a guest in the hands of a driver.
type machine struct {
	*vm
	driver *Driver
	left   chan struct{} // closed when it is let go of
	free   chan struct{} // closed when another may own it
	over   chan struct{} // closed when it has ended or is let go of
	leave  func()        // lets go of it

	merging atomic.Bool // a Merge is under way

	dead  atomic.Bool   // its driver was killed: the dead see nothing of what becomes of it
	asked chan struct{} // closed by Close or Detach
	ask   func()
}

// hold makes d the owner of v.
func (d *Driver) hold(v *vm) (*machine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.killed {
		return nil, errKilled
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.owner != nil {
		return nil, dayfly.Errorf(dayfly.Conflict, "the machine has an owner already: end that process, or let it go first")
	}
	m := &machine{vm: v, driver: d, left: make(chan struct{}), free: make(chan struct{}), over: make(chan struct{}), asked: make(chan struct{})}
	m.leave = sync.OnceFunc(func() { close(m.left) })
	m.ask = sync.OnceFunc(func() { close(m.asked) })
	v.owner = m
	d.owned[m] = true
	go m.own()
	return m, nil
}

// own waits for the end of the guest or of the ownership.
func (m *machine) own() {
	select {
	case <-m.done:
	case <-m.left:
		m.port.drop()
	}
	m.driver.mu.Lock()
	delete(m.driver.owned, m)
	m.driver.mu.Unlock()
	m.mu.Lock()
	m.owner = nil
	m.mu.Unlock()
	close(m.free)
	if m.dead.Load() {
		<-m.asked
	}
	close(m.over)
}

// PID is a number that no process has.
func (m *machine) PID() int { return m.pid }

// Channel connects to the guest's port.
func (m *machine) Channel(ctx context.Context) (net.Conn, error) {
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	return m.port.dial()
}

// Pause stops the guest at its next use of the port.
func (m *machine) Pause(ctx context.Context) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	m.port.pause()
	return nil
}

// Resume lets the guest go on.
func (m *machine) Resume(ctx context.Context) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	m.port.resume()
	return nil
}

func (m *machine) usable(ctx context.Context) error {
	select {
	case <-m.over:
		return m.conflict()
	case <-m.left:
		return m.conflict()
	case <-m.done:
		return m.conflict()
	default:
		return ctx.Err()
	}
}

func (m *machine) conflict() error {
	return dayfly.Errorf(dayfly.Conflict, "the machine has ended (%s)", m.how().Cause)
}

// how is how it ended. It must have, or have been let go of.
func (m *machine) how() vmm.Exit {
	select {
	case <-m.left:
		return vmm.Exit{Cause: vmm.Detached}
	default:
		return m.exit
	}
}

// Done is closed when the machine has ended.
func (m *machine) Done() <-chan struct{} { return m.over }

// Exit says how the machine ended; it is zero until then.
func (m *machine) Exit() vmm.Exit {
	select {
	case <-m.over:
		return m.how()
	default:
		return vmm.Exit{}
	}
}

// Console returns the end of what the guest wrote to its console.
func (m *machine) Console() []byte { return m.console.Bytes() }

// Close ends the guest and waits until it has returned. It returns nil.
func (m *machine) Close() error {
	m.ask()
	select {
	case <-m.left:
	default:
		m.end(errClosed)
	}
	<-m.over
	return nil
}

// Detach lets go of an orphan.
func (m *machine) Detach() error {
	if !m.config.Orphan {
		return dayfly.Errorf(dayfly.Invalid, "the machine ends with this process: it is none that can be left alone")
	}
	m.ask()
	select {
	case <-m.done:
		<-m.over
		return m.conflict()
	case <-m.left:
		<-m.over
		return m.conflict()
	default:
	}
	m.leave()
	<-m.over
	return nil
}
