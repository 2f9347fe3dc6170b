package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// launch is a machine in the making.
type launch struct {
	driver *Driver
	config vmm.Config
	back   undo.Stack

	endpoint *endpoint
	owner    *os.File // the machine's directory, locked; of an orphan
	agent    *os.File // QEMU's ends, closed here once it has them
	qmp      *os.File
	state    *os.File // of a restored machine: where it reads what it goes on from
	feed     *os.File // our end of that
	taps     []*os.File
	m        *machine
	running  *call
}

// Launch starts a QEMU process and returns as soon as the guest's CPUs run. A
// writable drive that another machine has is a Conflict.
func (d *Driver) Launch(ctx context.Context, c vmm.Config) (_ vmm.Machine, err error) {
	if err := check(c); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := &launch{driver: d}
	if l.config, err = absolute(c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.back.Run(ctx))
		}
	}()
	if err := l.sockets(ctx); err != nil {
		return nil, err
	}
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	if err := l.pour(ctx); err != nil {
		return nil, err
	}
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	l.back.Keep()
	return l.m, nil
}

// sockets makes both ways to talk to QEMU and puts the first questions into
// one: they are answered when QEMU gets there, without another round trip.
func (l *launch) sockets(ctx context.Context) (err error) {
	if l.config.Orphan {
		if l.owner, err = own(ctx, l.config.Dir); err != nil {
			return err
		}
		l.back.Push("ownership", func(context.Context) error { return l.owner.Close() })
	}
	if l.endpoint, err = openEndpoint(l.config.Dir); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	l.back.Push("sockets", func(context.Context) error { return l.endpoint.remove() })
	if l.agent, err = l.endpoint.listen(agentSocket); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	ours, err := l.monitor(ctx)
	if err != nil {
		return joinClose(fmt.Errorf("qemu: %w", err), l.agent)
	}
	l.m = newMachine(l.config, l.endpoint, l.driver.log)
	l.m.owner = l.owner
	l.m.mon = newMonitor(ours, l.m.event)
	l.back.Push("monitor", func(context.Context) error { _ = l.m.mon.Close(); return nil })
	_, err = l.m.mon.send("qmp_capabilities", nil)
	if err == nil {
		l.running, err = l.m.mon.send("query-status", nil)
	}
	if err != nil {
		return joinClose(err, l.agent, l.qmp)
	}
	return nil
}

// monitor makes QMP's connection: a pair of sockets, or of an orphan a socket
// to be connected to again.
func (l *launch) monitor(ctx context.Context) (ours net.Conn, err error) {
	if !l.config.Orphan {
		ours, l.qmp, err = socketPair()
		return ours, err
	}
	if l.qmp, err = l.endpoint.listen(monitorSocket); err != nil {
		return nil, err
	}
	if ours, err = l.endpoint.connect(ctx, monitorSocket); err != nil {
		return nil, joinClose(err, l.qmp)
	}
	return ours, nil
}

func (l *launch) start(ctx context.Context) error {
	defer func() { _ = joinClose(nil, append(l.taps, l.agent, l.qmp, l.state)...) }() // QEMU has them
	program, err := l.driver.Program(l.config.Accel)
	if err != nil {
		return err
	}
	khz := 0
	if l.config.Accel == dayfly.TCG {
		khz = l.driver.tsc.KHz()
	}
	files, err := l.files()
	if err != nil {
		return err
	}
	if l.config.Spawner == nil {
		if err := l.openTAPs(); err != nil {
			return err
		}
		files = append(files, l.taps...)
	}
	s := spec{
		program: program,
		args:    arguments(l.config, khz),
		dir:     l.config.Dir,
		files:   files,
		paths:   paths(l.config),
		nics:    l.config.NICs,
		orphan:  l.config.Orphan,
	}
	if l.config.Spawner != nil {
		l.m.proc, err = s.lodge(ctx, l.config.Spawner)
	} else {
		l.m.proc, err = spawn(s)
	}
	if err != nil {
		return startError(err)
	}
	l.back.Push("process", func(context.Context) error { l.m.proc.kill(); return nil })
	return nil
}

// paths are the files that QEMU opens by name as it starts. Those that come
// later are handed to it: see hand.
func paths(c vmm.Config) (list []vmm.Path) {
	if len(c.State) == 0 {
		list = append(list, vmm.Path{Name: c.Kernel}, vmm.Path{Name: c.Initramfs})
	}
	for _, d := range c.Drives {
		list = append(list, vmm.Path{Name: d.Path, Write: !d.ReadOnly})
		for _, below := range d.Below {
			list = append(list, vmm.Path{Name: below})
		}
	}
	return list
}

// files are what QEMU inherits, in the order of the constants monitorFD and on.
func (l *launch) files() ([]*os.File, error) {
	files := []*os.File{l.qmp, l.agent}
	if l.config.Memory.File == nil {
		return files, nil
	}
	files = append(files, l.config.Memory.File)
	if len(l.config.State) == 0 {
		return files, nil
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("qemu: state: %w", err)
	}
	l.state, l.feed = theirs, ours
	return append(files, theirs), nil
}

// openTAPs takes the TAPs of a QEMU that lives where we do.
func (l *launch) openTAPs() error {
	for _, n := range l.config.NICs {
		f, err := vmm.OpenTAP(n.TAP)
		if err != nil {
			return err
		}
		l.taps = append(l.taps, f)
	}
	return nil
}

// pour has the RAM filled, while QEMU starts, and then hands it the state, for
// which it waits with all else done.
func (l *launch) pour(ctx context.Context) error {
	if l.feed == nil {
		return nil
	}
	defer l.feed.Close()
	if fill := l.config.Memory.Fill; fill != nil {
		if err := fill(ctx); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = l.feed.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := l.feed.Write(l.config.State); err != nil && ctx.Err() == nil && !errors.Is(err, unix.EPIPE) { // then QEMU says why
		return fmt.Errorf("qemu: state: %w", err)
	}
	return ctx.Err()
}

// wait returns when the guest runs. QMP greets early; a command, though, is
// carried out only after everything was opened and the CPUs were let go, so
// that its answer is the proof.
func (l *launch) wait(ctx context.Context) error {
	var status struct{ Running bool }
	err := l.running.wait(ctx, &status)
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	if err == nil {
		if err = checkMajor(l.m.major()); err != nil {
			return err
		}
		err = l.restored(ctx, status.Running)
	}
	if err == nil {
		err = l.limit(ctx)
	}
	if err == nil {
		l.m.begin()
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	// Its last words are complete only when it is gone.
	l.m.proc.kill()
	return l.explain(ctx, err)
}

// restored waits until a saved state has been read: QEMU answers before that,
// and lets the CPUs go after it.
func (l *launch) restored(ctx context.Context, running bool) error {
	if running || len(l.config.State) == 0 {
		return nil
	}
	select {
	case <-l.m.resumed:
		return nil
	case <-l.m.mon.ended:
		return errMonitorClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limit bounds the drives that are to be.
func (l *launch) limit(ctx context.Context) error {
	for i, d := range l.config.Drives {
		if d.Limit.None() {
			continue
		}
		if err := l.m.LimitDrive(ctx, i, d.Limit); err != nil {
			return err
		}
	}
	return nil
}

// refusals are the reasons to fail that QEMU is known to give, by its words.
var refusals = []struct {
	words string
	kind  dayfly.Kind
	msg   string
}{
	{"Is another process using the image", dayfly.Conflict, "a drive is in use by another machine, and one of the two writes: stop the other one first"},
	{"ithout PVH ELF Note", dayfly.Invalid, "the guest kernel has no PVH entry: it needs CONFIG_PVH=y"},
	{"not access KVM kernel module", dayfly.Unavailable, "KVM is not available on this host: use --accel tcg"},
	{"failed to initialize kvm", dayfly.Unavailable, "KVM does not work on this host: use --accel tcg"},
	{"failed to set MSR", dayfly.Unavailable, "KVM on this host cannot run a guest: use --accel tcg"},
	{"load of migration failed", dayfly.Unavailable, "this VMM cannot go on from the saved state: it was saved by another version, or of another machine; start cold instead"},
	{"annot set up guest memory", dayfly.Unavailable, "this host has too little free memory for the machine"},
	{"annot allocate memory", dayfly.Unavailable, "this host has too little free memory for the machine"},
}

// explain finds out why QEMU ended, or why it does not answer.
func (l *launch) explain(ctx context.Context, err error) error {
	said := string(l.m.proc.words())
	for _, r := range refusals {
		if strings.Contains(said, r.words) {
			return &dayfly.Error{Kind: r.kind, Msg: r.msg, Err: l.m.proc.lastWords()}
		}
	}
	// One that is too old knows some option too little.
	if _, old := l.driver.Version(ctx); old != nil {
		return old
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "qemu did not start the machine", Err: errors.Join(err, l.m.proc.lastWords())}
}

// socketPair returns two connected sockets, one of them to be inherited.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "qmp")
	f := os.NewFile(uintptr(fds[0]), "qmp")
	defer f.Close() // FileConn has a copy
	ours, err = net.FileConn(f)
	if err != nil {
		return nil, nil, joinClose(err, theirs)
	}
	return ours, theirs, nil
}
