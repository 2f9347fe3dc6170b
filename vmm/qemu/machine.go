package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// dyingLimit is how long QEMU may take from hanging up to being gone.
const dyingLimit = time.Second

// machine is one guest. A goroutine (own) is the only one to end it.
type machine struct {
	config   vmm.Config
	proc     *process
	mon      *monitor
	endpoint *endpoint
	owner    *os.File // of an orphan: its directory, locked while it is ours
	base     *os.File // of an adopted one: what its RAM began as; config has it, too
	sealed   bool     // of an adopted one: this process may not look into its memory
	log      *slog.Logger

	greeted  atomic.Int64            // QEMU's major version, by its greeting
	shutdown chan string             // the reason QMP gave for the guest's end
	jobs     chan struct{}           // a job of QEMU's has changed
	stopped  chan struct{}           // the CPUs were stopped, maybe not by us
	resumed  chan struct{}           // the CPUs were let go
	close    context.CancelCauseFunc // asks own to end the machine, or to let go of it
	done     chan struct{}
	exit     vmm.Exit // valid once done is closed

	reading sync.Mutex // held while the console is read, which empties it
	console *vmm.Tail

	jobFailed atomic.Pointer[string] // what QEMU said of the last merge that failed

	blocks  sync.Mutex // held while drives are changed
	drives  []attached
	merging bool // a Merge is under way
	sets    int  // how often one was set, for the names of nodes
}

// attached is a drive as it is now, and what QEMU calls its parts.
type attached struct {
	vmm.Drive
	node, base string   // the uppermost block node, and the lowest
	serial     int      // of the last layer that was pushed; it began with those there were
	owned      []string // nodes between those two that end only when they are told to, the uppermost first
	stale      []string // the same, when nothing lies over them any more
	loose      bool     // a merge may still run that nobody waits for
}

// attach is a drive as it is launched.
func attach(i int, d vmm.Drive) attached {
	a := attached{Drive: d, node: driveNode(i), base: driveNode(i), serial: len(d.Below)}
	if len(d.Below) > 0 {
		a.base = layerNode(i, 0)
	}
	return a
}

func newMachine(c vmm.Config, e *endpoint, log *slog.Logger) *machine {
	drives := make([]attached, len(c.Drives))
	for i, d := range c.Drives {
		drives[i] = attach(i, d)
	}
	return &machine{
		config:   c,
		drives:   drives,
		endpoint: e,
		log:      log,
		shutdown: make(chan string, 1),
		jobs:     make(chan struct{}, 1),
		stopped:  make(chan struct{}, 1),
		resumed:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		console:  vmm.NewTail(vmm.ConsoleBytes),
	}
}

// PID is QEMU's process id.
func (m *machine) PID() int { return m.proc.pid }

// Channel opens the guest's port; a Conflict error says that it is open, or
// that the machine has ended.
func (m *machine) Channel(ctx context.Context) (net.Conn, error) {
	if m.over() {
		return nil, m.conflict()
	}
	c, err := m.endpoint.dial(ctx)
	if err != nil && m.over() {
		return nil, m.conflict()
	}
	return c, err
}

// Pause stops the guest's CPUs.
func (m *machine) Pause(ctx context.Context) error { return m.command(ctx, "stop") }

// Resume lets the guest's CPUs go on.
func (m *machine) Resume(ctx context.Context) error { return m.command(ctx, "cont") }

func (m *machine) command(ctx context.Context, name string) error {
	return m.ask(ctx, name, nil, nil)
}

// ask carries out a command of QMP's and tells its failure from the machine's end.
func (m *machine) ask(ctx context.Context, name string, args, out any) error {
	if m.over() {
		return m.conflict()
	}
	err := m.mon.execute(ctx, name, args, out)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// QEMU refuses, or is gone, because the guest has ended: that is seen here
	// before the owner is through with it.
	select {
	case <-m.done:
		return m.conflict()
	case <-time.After(dyingLimit):
		return fmt.Errorf("qemu: %w", err)
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

// Close kills QEMU and waits until it is gone. It returns nil.
func (m *machine) Close() error {
	m.close(errClosed)
	<-m.done
	return nil
}

// Detach lets go of an orphan, which goes on.
func (m *machine) Detach() error {
	if m.owner == nil {
		return dayfly.Errorf(dayfly.Invalid, "the machine ends with this process: it is none that can be left alone")
	}
	m.close(errDetached)
	<-m.done
	if m.exit.Cause != vmm.Detached {
		return m.conflict()
	}
	return nil
}

// Why own was asked to be done with a machine.
var (
	errClosed   = errors.New("qemu: closed")
	errDetached = errors.New("qemu: detached")
)

// asked is the end that own was asked for.
func asked(ctx context.Context) vmm.Exit {
	if errors.Is(context.Cause(ctx), errDetached) {
		return vmm.Exit{Cause: vmm.Detached}
	}
	return vmm.Exit{Cause: vmm.Closed}
}

// Console returns the end of what the guest wrote to its console. Of a machine
// that has ended it is what could still be read: nothing new if QEMU was killed.
func (m *machine) Console() []byte {
	if !m.over() {
		_ = m.readConsole(context.Background()) // what was read before is still good
	}
	return m.console.Bytes()
}

// readConsole moves what QEMU holds of the console to here.
func (m *machine) readConsole(ctx context.Context) error {
	m.reading.Lock()
	defer m.reading.Unlock()
	var text []byte // JSON's base64, as asked for: a guest writes any bytes
	err := m.mon.execute(ctx, "ringbuf-read", map[string]any{
		"device": consoleChardev, "size": vmm.ConsoleBytes, "format": "base64",
	}, &text)
	_, _ = m.console.Write(text)
	return err
}

// event takes QMP's greeting and events. It does not block: each channel has
// room for the one message that counts.
func (m *machine) event(msg message) {
	switch {
	case msg.Greeting != nil:
		m.greeted.Store(int64(msg.Greeting.Version.QEMU.Major))
	case msg.Event == "SHUTDOWN":
		select {
		case m.shutdown <- msg.Data.Reason:
		default:
		}
	case msg.Event == "JOB_STATUS_CHANGE":
		select {
		case m.jobs <- struct{}{}:
		default:
		}
	case msg.Event == "BLOCK_JOB_COMPLETED" && msg.Data.Error != "":
		m.jobFailed.Store(&msg.Data.Error)
	case msg.Event == "RESUME":
		select {
		case m.resumed <- struct{}{}:
		default:
		}
	case msg.Event == "STOP":
		select {
		case m.stopped <- struct{}{}:
		default:
		}
	}
}

func (m *machine) major() int { return int(m.greeted.Load()) }

// begin starts the owner.
func (m *machine) begin() {
	ctx, cancel := context.WithCancelCause(context.Background())
	m.close = cancel
	go m.own(ctx)
}

// own waits for the machine's end and sees it through. ctx ends with Close.
func (m *machine) own(ctx context.Context) {
	m.exit = m.await(ctx)
	m.close(nil) // frees what ctx holds
	if m.exit.Cause == vmm.Detached {
		m.leave()
	} else {
		m.proc.kill()
		_ = m.mon.Close()       // QEMU is gone
		_ = m.endpoint.remove() // the caller may have removed it already
	}
	if m.proc.forget != nil {
		m.proc.forget()
	}
	_ = joinClose(nil, m.base, m.owner) // the lock last: then another may have it
	m.log.Debug("machine ended", "machine", m.config.ID, "cause", m.exit.Cause, "err", m.exit.Err)
	close(m.done)
}

// leave ends our connections and nothing else.
func (m *machine) leave() {
	_ = m.readConsole(context.Background()) // as it is all that is known of it from now on
	_ = m.mon.Close()
	m.endpoint.leave()
}

func (m *machine) await(ctx context.Context) vmm.Exit {
	for {
		select {
		case <-ctx.Done():
			return asked(ctx)
		case reason := <-m.shutdown:
			return m.guestEnded(ctx, reason)
		case <-m.stopped:
			if err := m.broken(ctx); err != nil {
				return vmm.Exit{Cause: vmm.Crash, Err: err}
			}
		case <-m.proc.done:
			return m.crashed()
		case <-m.mon.ended:
			return m.crashed()
		}
	}
}

// panicMark is how Linux begins its last words (kernel/panic.c).
const panicMark = "Kernel panic - not syncing"

// guestEnded tells a panic from a guest that ended itself. Both reboot, so it
// goes by the console; a guest may lie there, to nobody's harm.
func (m *machine) guestEnded(ctx context.Context, reason string) vmm.Exit {
	if err := m.readConsole(ctx); err != nil {
		if ctx.Err() != nil {
			return asked(ctx)
		}
		return m.crashed()
	}
	text := m.console.Bytes()
	if i := bytes.LastIndex(text, []byte(panicMark)); i >= 0 {
		line, _, _ := bytes.Cut(text[i:], []byte("\n"))
		return vmm.Exit{Cause: vmm.Panic, Err: fmt.Errorf("%.200q", bytes.TrimSpace(line))}
	}
	if reason == "guest-panic" {
		return vmm.Exit{Cause: vmm.Panic}
	}
	return vmm.Exit{Cause: vmm.PowerOff}
}

// broken asks whether the CPUs stopped because QEMU can run them no longer,
// as when KVM meets an instruction that it cannot emulate.
func (m *machine) broken(ctx context.Context) error {
	var status struct{ Status string }
	if err := m.mon.execute(ctx, "query-status", nil, &status); err != nil {
		return nil // the end of the monitor or of the process says more
	}
	if status.Status == "internal-error" || status.Status == "io-error" {
		return errors.Join(fmt.Errorf("qemu: the guest cannot go on: %s", status.Status), m.said())
	}
	return nil
}

// crashed is a machine that ended by itself, or that QEMU has no sensible word
// for any more: a guest may then have taken it over.
func (m *machine) crashed() vmm.Exit {
	select {
	case <-m.proc.done:
	case <-m.mon.ended:
		if err := m.mon.Err(); !errors.Is(err, io.EOF) {
			return vmm.Exit{Cause: vmm.Crash, Err: errors.Join(err, m.said())}
		}
		m.awaitDeath()
	case <-time.After(dyingLimit):
		return vmm.Exit{Cause: vmm.Crash, Err: errors.Join(errors.New("qemu does not answer"), m.said())}
	}
	m.proc.kill()
	return vmm.Exit{Cause: vmm.Crash, Err: m.proc.lastWords()}
}

// awaitDeath gives a process that hung up the time to end by itself, so that
// its own exit status is reported.
func (m *machine) awaitDeath() {
	select {
	case <-m.proc.done:
	case <-time.After(dyingLimit):
	}
}

// said is the end of QEMU's standard error as an error, or nil.
func (m *machine) said() error {
	if s := m.proc.words(); len(s) > 0 {
		return fmt.Errorf("qemu said %q", s)
	}
	return nil
}
