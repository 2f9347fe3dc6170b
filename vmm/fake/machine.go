package fake

import (
	"context"
	"net"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

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
	if m.over() {
		return dayfly.Errorf(dayfly.Conflict, "the machine has ended (%s)", m.exit.Cause)
	}
	return ctx.Err()
}

func (m *machine) over() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// Done is closed when the machine has ended.
func (m *machine) Done() <-chan struct{} { return m.done }

// Exit says how the machine ended; it is zero until then.
func (m *machine) Exit() vmm.Exit {
	if !m.over() {
		return vmm.Exit{}
	}
	return m.exit
}

// Console returns the end of what the guest wrote to its console.
func (m *machine) Console() []byte { return m.console.Bytes() }

// Close ends the guest and waits until it has returned. It returns nil.
func (m *machine) Close() error {
	m.end(errClosed)
	<-m.done
	return nil
}
