package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// Bounds of a machine's end.
const (
	dyingLimit = time.Second // from refusing to answer to being gone
	wordsShown = 2 << 10     // bytes of the log in an error
	maxWords   = 64 << 10    // bytes that are kept of it
)

// machine is one guest. A goroutine (own) is the only one to end it.
type machine struct {
	config vmm.Config
	orphan bool
	log    *slog.Logger

	home    *home
	proc    *process
	api     *api
	channel *channels

	state, spare *os.File // see the descriptors that Firecracker inherits
	base         *os.File // what the RAM began as, or goes to when it is saved; nil: nothing
	shared       bool     // the latter
	kept         *os.File // base, of an adopted machine: ours to close

	console, words *vmm.Tail
	pipes          []*pipe
	metrics        *lines

	close  func() // asks own to end the machine
	letGo  chan struct{}
	detach func() // asks own to let go of it: closes letGo
	done   chan struct{}
	exit   vmm.Exit // valid once done is closed

	blocks sync.Mutex // held while drives are changed, and while they must not
	drives []attached
}

func newMachine(c vmm.Config, h *home, d *Driver) *machine {
	m := &machine{
		config: c, home: h, log: d.log, orphan: c.Orphan,
		channel: &channels{home: h},
		console: vmm.NewTail(vmm.ConsoleBytes),
		words:   vmm.NewTail(maxWords),
		letGo:   make(chan struct{}),
		done:    make(chan struct{}),
	}
	m.detach = sync.OnceFunc(func() { close(m.letGo) })
	m.api = newAPI(func(ctx context.Context) (net.Conn, error) { return h.connect(ctx, apiSocket) }, d.limits)
	return m
}

// PID is Firecracker's process id.
func (m *machine) PID() int { return m.proc.pid }

// Channel opens a connection to the guest's agent and waits until that listens;
// a Conflict error says that it is open, or that the machine has ended.
func (m *machine) Channel(ctx context.Context) (net.Conn, error) {
	if m.over() {
		return nil, m.conflict()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-m.done:
			cancel(m.conflict())
		case <-stop:
		}
	}()
	c, err := m.channel.dial(ctx)
	if err != nil && m.over() {
		return nil, m.conflict()
	}
	return c, err
}

// Pause stops the guest's CPUs.
func (m *machine) Pause(ctx context.Context) error { return m.become(ctx, askPause) }

// Resume lets the guest's CPUs go on.
func (m *machine) Resume(ctx context.Context) error { return m.become(ctx, askResume) }

func (m *machine) become(ctx context.Context, state string) error {
	return m.ask(ctx, request{http.MethodPatch, "/vm", vmState{state}, false}, nil)
}

// ask carries out a request and tells its failure from the machine's end.
func (m *machine) ask(ctx context.Context, r request, out any) error {
	if m.over() {
		return m.conflict()
	}
	err := m.api.do(ctx, r, out)
	var f *fault
	var known *dayfly.Error
	if err == nil || ctx.Err() != nil || errors.As(err, &f) || errors.As(err, &known) {
		return err
	}
	// It hung up, because the guest has ended or it died: that is seen here
	// before the owner is through with it.
	select {
	case <-m.done:
		return m.conflict()
	case <-time.After(dyingLimit):
		return err
	}
}

func (m *machine) over() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *machine) conflict() error {
	return dayfly.Errorf(dayfly.Conflict, "the machine has ended (%s)", m.exit.Cause)
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

// Close kills Firecracker and waits until it is gone. It returns nil.
func (m *machine) Close() error {
	m.close()
	<-m.done
	return nil
}

// Detach lets go of a machine that is an orphan. The lock on a drive that was
// set since its launch is not held until it is adopted.
func (m *machine) Detach() error {
	if !m.orphan {
		return dayfly.Errorf(dayfly.Invalid, "the machine dies with its owner: only an orphan can be let go of")
	}
	if m.over() {
		return m.conflict()
	}
	m.detach()
	<-m.done
	if m.exit.Cause != vmm.Detached {
		return m.conflict()
	}
	return nil
}

// begin starts the owner.
func (m *machine) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	m.close = cancel
	go m.own(ctx)
}

// own waits for the machine's end and sees it through. ctx ends with Close.
func (m *machine) own(ctx context.Context) {
	select {
	case <-ctx.Done():
		m.exit.Cause = vmm.Closed
	case <-m.letGo:
		m.exit.Cause = vmm.Detached
	case <-m.proc.done:
	}
	if m.exit.Cause == vmm.Detached {
		m.leave()
	} else {
		m.end()
	}
	m.close() // frees what ctx holds
	m.log.Debug("machine ended", "machine", m.config.ID, "cause", m.exit.Cause, "err", m.exit.Err)
	close(m.done)
}

// end sees to it that nothing is left, and finds out why if Close was not it.
func (m *machine) end() {
	m.proc.kill()
	for _, p := range m.pipes {
		p.drain()
	}
	if m.exit.Cause == "" {
		m.exit = m.why()
	}
	m.free(freeDrives)
	_ = m.home.remove() // the caller may have removed it already
}

// leave lets go of everything, and leaves it there.
func (m *machine) leave() {
	for _, p := range m.pipes {
		p.hangUp()
	}
	m.free(closeDrives)
	m.home.close()
}

// free closes what is ours of a machine.
func (m *machine) free(drives func([]attached)) {
	m.channel.hangUp()
	m.api.close()
	if m.metrics != nil {
		m.metrics.close()
	}
	m.blocks.Lock()
	defer m.blocks.Unlock()
	drives(m.drives)
	closeAll([]*os.File{m.state, m.spare, m.kept})
	m.proc.forget()
}

// panicMark is how Linux begins its last words (kernel/panic.c).
const panicMark = "Kernel panic - not syncing"

// why tells a guest that ended itself from a panic, and both from a Firecracker
// that did not end well. The guest reboots in either case, so it goes by the
// console; a guest may lie there, to nobody's harm.
func (m *machine) why() vmm.Exit {
	if !m.proc.well(m.words) {
		return vmm.Exit{Cause: vmm.Crash, Err: m.lastWords()}
	}
	text := m.console.Bytes()
	if i := bytes.LastIndex(text, []byte(panicMark)); i >= 0 {
		line, _, _ := bytes.Cut(text[i:], []byte("\n"))
		return vmm.Exit{Cause: vmm.Panic, Err: fmt.Errorf("%.200q", bytes.TrimSpace(line))}
	}
	return vmm.Exit{Cause: vmm.PowerOff}
}

// saidWell reports whether a log ends as that of a Firecracker whose guest ended
// itself.
func saidWell(log []byte) bool {
	return bytes.Contains(log[max(0, len(log)-wordsShown):], []byte("exiting successfully"))
}

// lastWords says how the process ended. It must have.
func (m *machine) lastWords() error {
	said := m.words.Bytes()
	if said = said[max(0, len(said)-wordsShown):]; len(said) > 0 {
		return fmt.Errorf("firecracker: %s: %q", m.proc.how(), said)
	}
	return fmt.Errorf("firecracker: %s", m.proc.how())
}
