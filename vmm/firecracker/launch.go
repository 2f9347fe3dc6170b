package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	m      *machine

	refuse       *os.File // Firecracker's alone once it has it
	console, log *os.File // its ends of the pipes
	metrics      *os.File

	asked string // the last request
}

// Launch starts a Firecracker process and returns as soon as the guest's CPUs
// run. A writable drive that another machine has is a Conflict.
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
	for _, step := range []func(context.Context) error{
		l.makeHome, l.makeDrives, l.seeTAPs, l.makeFiles, l.start, l.enter, l.fill, l.greet, l.begin,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	l.back.Keep()
	return l.m, nil
}

// makeHome takes the machine's directory.
func (l *launch) makeHome(ctx context.Context) error {
	h, err := openHome(ctx, l.config.Dir)
	if err != nil {
		return err
	}
	l.back.Push("directory", func(context.Context) error { return h.remove() })
	l.m = newMachine(l.config, h, l.driver)
	l.back.Push("api", func(context.Context) error { l.m.api.close(); return nil })
	if err := h.clear(); err != nil { // what a killed owner left
		return fmt.Errorf("firecracker: %w", err)
	}
	if l.config.Spawner != nil {
		return nil // it has a room where it is put
	}
	if err := h.makeRoom(); err != nil {
		return fmt.Errorf("firecracker: %w", err)
	}
	return nil
}

// makeDrives locks the drives and makes the links to them.
func (l *launch) makeDrives(ctx context.Context) (err error) {
	if l.m.drives, err = lockDrives(ctx, l.config.Drives); err != nil {
		return err
	}
	l.back.Push("drives", func(context.Context) error { freeDrives(l.m.drives); return nil })
	for i, d := range l.m.drives {
		if err := l.m.home.link(d.Path, driveName(i)); err != nil {
			return fmt.Errorf("firecracker: drive: %w", err)
		}
	}
	return nil
}

// seeTAPs says what is wrong about a TAP, which Firecracker would say less clearly.
// A Spawner knows better where they are.
func (l *launch) seeTAPs(context.Context) error {
	if l.config.Spawner != nil {
		return nil
	}
	for _, n := range l.config.NICs {
		f, err := vmm.OpenTAP(n.TAP)
		if err != nil {
			return err
		}
		_ = f.Close() // as it was
	}
	return nil
}

// makeFiles makes what Firecracker inherits.
func (l *launch) makeFiles(context.Context) (err error) {
	m := l.m
	l.back.Push("files", func(context.Context) error {
		closeAll([]*os.File{m.state, m.spare})
		l.closeTheirs()
		return nil
	})
	if m.state, err = memoryFile("state"); err != nil {
		return err
	}
	if m.spare, err = memoryFile("spare"); err != nil {
		return err
	}
	if l.refuse, err = refusingFile("refuse"); err != nil {
		return err
	}
	if m.base, m.shared = l.config.Memory.File, l.config.Memory.Shared; len(l.config.State) > 0 {
		if _, err := m.state.WriteAt(l.config.State, 0); err != nil {
			return fmt.Errorf("firecracker: state: %w", err)
		}
	} else if m.base != nil && !m.shared {
		return dayfly.Errorf(dayfly.Invalid, "the memory of a machine that boots begins as nothing: firecracker has no other")
	}
	if l.console, err = m.home.makePipe(consolePipe); err != nil {
		return err
	}
	if l.log, err = m.home.makePipe(logPipe); err != nil {
		return err
	}
	if l.driver.options.Metrics != nil {
		l.metrics, err = m.home.makePipe(metricsPipe)
	}
	return err
}

// closeTheirs closes what only Firecracker is to have.
func (l *launch) closeTheirs() {
	closeAll([]*os.File{l.refuse, l.console, l.log, l.metrics})
	l.refuse, l.console, l.log, l.metrics = nil, nil, nil, nil
}

// start makes the process, and begins to hear it.
func (l *launch) start(ctx context.Context) error {
	binary, err := l.driver.find()
	if err != nil {
		return err
	}
	m := l.m
	s := spec{
		binary: binary, name: processName(l.config), args: l.arguments(), dir: l.config.Dir,
		stdout: l.console, stderr: l.log, files: l.files(), orphan: l.config.Orphan,
	}
	if l.config.Spawner != nil {
		m.proc, err = l.lodge(ctx, s)
	} else {
		m.proc, err = spawn(s)
	}
	if err != nil {
		return startError(err)
	}
	l.back.Push("process", func(context.Context) error {
		m.proc.kill()
		for _, p := range m.pipes {
			p.drain()
		}
		if m.metrics != nil {
			m.metrics.close()
		}
		m.proc.forget()
		return nil
	})
	return l.hear()
}

// files are what it inherits, by number from stateFD on.
func (l *launch) files() []*os.File {
	m := l.m
	memory := m.base
	if memory == nil {
		memory = m.spare
	}
	files := []*os.File{m.state, l.refuse, m.spare, memory}
	for _, d := range m.drives {
		files = append(files, d.lock)
	}
	if l.metrics != nil {
		files = append(files, l.metrics)
	}
	return files
}

func (l *launch) arguments() []string {
	args := []string{
		"--api-sock", apiSocket,
		"--id", instanceID(l.config.ID),
		"--log-path", fdPath(unix.Stderr), "--level", "Info",
	}
	if l.metrics != nil {
		args = append(args, "--metrics-path", fdPath(driveFD+len(l.config.Drives)))
	}
	return args
}

// enter looks for the directory that Firecracker sees, if it does not see ours.
func (l *launch) enter(ctx context.Context) error {
	if l.m.proc.inside == nil {
		return nil
	}
	dir, err := l.m.proc.inside.Look(insideDir)
	if err != nil {
		return l.explain(ctx, fmt.Errorf("firecracker: %w", err))
	}
	return l.m.home.enter(dir)
}

// instanceID is an id that Firecracker takes: letters, digits and dashes.
func instanceID(id string) string { return strings.ReplaceAll(id, "_", "-") }

func (l *launch) hear() error {
	// Handing them over has made them wait, and nobody may wait for us.
	for _, f := range []*os.File{l.console, l.log, l.metrics} {
		if f == nil {
			continue
		}
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			return fmt.Errorf("firecracker: pipe: %w", err)
		}
	}
	err := l.m.hear(l.driver)
	closeAll([]*os.File{l.refuse, l.console, l.log}) // it has them
	l.refuse, l.console, l.log = nil, nil, nil
	return err
}

// hear begins to read the pipes.
func (m *machine) hear(d *Driver) error {
	for _, name := range []string{consolePipe, logPipe} {
		to := m.console
		if name == logPipe {
			to = m.words
		}
		p, err := m.home.readPipe(name, to)
		if err != nil {
			return err
		}
		m.pipes = append(m.pipes, p)
	}
	if d.options.Metrics == nil {
		return nil
	}
	m.metrics = newLines(func(line []byte) { d.options.Metrics(m.config.ID, line) })
	p, err := m.home.readPipe(metricsPipe, m.metrics)
	if err == nil {
		m.pipes = append(m.pipes, p)
	}
	return err
}

// greet waits until the API answers, and refuses a version that is too old.
func (l *launch) greet(ctx context.Context) error {
	if err := l.listens(ctx); err != nil {
		return l.explain(ctx, err)
	}
	var is instanceInfo
	if err := l.m.api.do(ctx, request{http.MethodGet, "/", nil, false}, &is); err != nil {
		return l.explain(ctx, err)
	}
	l.closeTheirs() // the pipe of the metrics, which it has opened by now
	_, err := parseVersion(is.Version)
	return err
}

// listens waits for the socket of the API.
func (l *launch) listens(ctx context.Context) error {
	limit := l.driver.limits.answer
	ctx, cancel := context.WithTimeoutCause(ctx, limit, silent("no socket", limit))
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		c, err := l.m.home.connect(ctx, apiSocket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.m.proc.done:
			return errEnded
		case <-again.C:
		}
	}
}

var errEnded = errors.New("firecracker has ended")

// fill has the memory of a restored machine filled, while Firecracker starts: it
// reads some of it as it loads the state.
func (l *launch) fill(ctx context.Context) error {
	if l.config.Memory.Fill == nil {
		return nil
	}
	return l.config.Memory.Fill(ctx)
}

// begin makes the machine, by one request after the other, and lets it run.
func (l *launch) begin(ctx context.Context) error {
	for _, r := range l.driver.beginning(l.config) {
		l.asked = r.String()
		if err := l.m.api.do(ctx, r, nil); err != nil {
			return l.explain(ctx, err)
		}
	}
	if err := l.m.state.Truncate(0); err != nil {
		return fmt.Errorf("firecracker: state: %w", err)
	}
	l.m.begin()
	return nil
}

// refusals are the reasons to fail that Firecracker is known to give, by its
// words. The first that fits counts.
var refusals = []struct {
	request, words string
	kind           dayfly.Kind
	msg            string
}{
	{"/", "KVM", dayfly.Unavailable, "KVM does not work on this host for firecracker: use qemu with --accel tcg"},
	{"/", "/dev/kvm", dayfly.Unavailable, "KVM is not available on this host: use qemu with --accel tcg"},
	{"/", "annot allocate memory", dayfly.Unavailable, "this host has too little free memory for the machine"},
	{"/snapshot/load", "", dayfly.Unavailable, "this VMM cannot go on from the saved state: it was saved by another version, or of another machine; start cold instead"},
	{"/boot-source", "", dayfly.Invalid, "firecracker cannot read the guest's kernel or initramfs"},
	{"/actions", "ernel", dayfly.Invalid, "firecracker cannot load the guest's kernel"},
	{"/network-interfaces/", "esource busy", dayfly.Conflict, "a TAP device is in use by another machine: stop that one first"},
	{"/network-interfaces/", "", dayfly.Unavailable, "firecracker cannot use a TAP device of the machine"},
	{"/drives/", "", dayfly.Unavailable, "firecracker cannot open a drive of the machine"},
}

// explain finds out why a launch failed.
func (l *launch) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var f *fault
	if errors.As(err, &f) {
		return refused(l.asked, f.message, f)
	}
	var known *dayfly.Error
	if errors.As(err, &known) {
		return err
	}
	// Its last words are complete only when it is gone.
	l.m.proc.kill()
	for _, p := range l.m.pipes {
		p.drain()
	}
	// One that is too old knows some option too little.
	if _, old := l.driver.Version(ctx); old != nil {
		return old
	}
	err = errors.Join(err, l.m.lastWords())
	if l.asked == loading { // it ends over a state that it cannot load, and its answer may get lost
		return refused(l.asked, "", err)
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "firecracker did not start the machine", Err: err}
}

const loading = http.MethodPut + " /snapshot/load"

// refused is the error of a Firecracker that did not do what it was asked.
func refused(asked, words string, err error) error {
	for _, r := range refusals {
		if strings.Contains(asked, r.request) && strings.Contains(words, r.words) {
			return &dayfly.Error{Kind: r.kind, Msg: r.msg, Err: err}
		}
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "firecracker did not start the machine", Err: err}
}
