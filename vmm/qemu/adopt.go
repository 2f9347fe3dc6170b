package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// adoption is the taking over of a machine.
type adoption struct {
	driver *Driver
	config vmm.Config
	back   undo.Stack

	owner *os.File
	args  []string // of its process
	pidfd int
	m     *machine
}

// adopting is what an adoption consists of. The machine is ours from the first
// row on, and known to be the right one from the second.
var adopting = []func(*adoption, context.Context) error{
	(*adoption).own,
	(*adoption).find,
	(*adoption).memory,
	(*adoption).connect,
	(*adoption).merges,
	(*adoption).drives,
	(*adoption).status,
}

// Adopt takes over an orphan. One that does not answer within ctx runs on.
func (d *Driver) Adopt(ctx context.Context, c vmm.Config) (_ vmm.Machine, err error) {
	c.Orphan, c.State, c.Memory = true, nil, vmm.Memory{}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, err
	}
	a := &adoption{driver: d, config: c}
	for _, step := range adopting {
		if err := step(a, ctx); err != nil {
			return nil, errors.Join(err, a.back.Run(ctx))
		}
	}
	a.back.Keep()
	a.m.begin()
	return a.m, nil
}

// own locks a machine's directory: whoever has the lock owns the machine. It is
// a lock of the kernel's, which goes with the process.
func own(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	err = flock.Within(ctx, flock.Moment, func() error { return flock.Try(f, unix.LOCK_EX) })
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, flock.ErrHeld):
		err = dayfly.Errorf(dayfly.Conflict, "the machine has an owner already: end that process, or let it go first")
	default:
		err = fmt.Errorf("qemu: ownership: %w", err)
	}
	return nil, joinClose(err, f)
}

func (a *adoption) own(ctx context.Context) (err error) {
	a.owner, err = own(ctx, a.config.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return errNotThere()
	}
	if err == nil {
		a.back.Push("ownership", func(context.Context) error { return a.owner.Close() })
	}
	return err
}

func errNotThere() error {
	return dayfly.Errorf(dayfly.NotFound, "no such machine runs any more")
}

// find looks for the process. Its pidfd is opened ahead of the look at its
// command line, so that both are of the same process.
func (a *adoption) find(ctx context.Context) error {
	pids, err := Orphans(ctx, a.config.Dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			continue // gone meanwhile
		}
		line, err := vmm.CommandLine(pid)
		id, dir, ok := machineName(line)
		if err != nil || !ok || id != a.config.ID || dir != a.config.Dir {
			_ = unix.Close(fd)
			continue
		}
		a.pidfd = fd
		a.args = strings.Split(string(line), "\x00")
		a.m = newMachine(a.config, nil, a.driver.log)
		a.m.owner = a.owner
		a.m.proc = watch(pid, fd)
		a.back.Push("process", func(context.Context) error { a.m.proc.forget(); return nil })
		return a.lodge(pid)
	}
	return errNotThere()
}

// lodge finds what the process lives in, whose end is then the process's. One
// that was launched without a Spawner lives in nothing.
func (a *adoption) lodge(pid int) error {
	if a.config.Spawner == nil {
		return nil
	}
	in, err := a.config.Spawner.Adopt(pid)
	if dayfly.KindOf(err) == dayfly.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	bare := a.m.proc
	p := lodger(in)
	p.words, p.forget = bare.words, func() { in.Leave(); bare.forget() }
	a.m.proc = p
	return nil
}

// watch waits for the end of a process that is no child of ours. It takes the
// pidfd over. How the process ended only its parent is told.
func watch(pid, pidfd int) *process {
	words := pidFile(pidfd, unix.Stderr)
	f := os.NewFile(uintptr(pidfd), "pidfd")
	done := make(chan struct{})
	p := &process{pid: pid, done: done}
	p.signal = func() {
		if c, err := f.SyscallConn(); err == nil {
			_ = c.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
		}
	}
	p.words = func() []byte {
		if words == nil {
			return nil
		}
		return readWords(words)
	}
	p.how = func() string { return "gone" }
	left := make(chan struct{})
	go func() {
		defer close(left)
		c, err := f.SyscallConn()
		if err == nil {
			err = c.Read(func(fd uintptr) bool {
				n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
			})
		}
		if err == nil { // else it is watched no more
			close(done)
		}
	}()
	p.forget = func() {
		_ = f.Close()
		<-left
		if words != nil {
			_ = words.Close()
		}
	}
	return p
}

// pidFile returns a descriptor of another process's as one of ours, or nil. It
// opens nothing: that process may have been taken over by its guest.
func pidFile(pidfd, number int) *os.File {
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "adopted")
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		_ = f.Close()
		return nil
	}
	return f
}

// memory finds the file that the RAM is or began as, which QEMU has open.
func (a *adoption) memory(context.Context) error {
	has := func(part string) bool {
		return slices.ContainsFunc(a.args, func(s string) bool {
			return strings.HasPrefix(s, "memory-backend-file,") && strings.Contains(s, part)
		})
	}
	if !has("mem-path=" + memoryPath + ",") {
		return nil
	}
	f := pidFile(a.pidfd, memoryFD)
	if f == nil { // it can do all but be copied
		a.m.sealed = true
		return nil
	}
	a.back.Push("memory", func(context.Context) error { return f.Close() })
	if fi, err := f.Stat(); err != nil || fi.Size() != int64(a.config.MemoryMiB)<<20 {
		return dayfly.Errorf(dayfly.Unavailable, "the machine's memory is not what it was launched with")
	}
	a.m.base = f
	a.m.config.Memory = vmm.Memory{File: f, Shared: has(memoryShared)}
	return nil
}

// connect opens the monitor.
func (a *adoption) connect(ctx context.Context) (err error) {
	if a.m.endpoint, err = openEndpoint(a.config.Dir); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	a.back.Push("sockets", func(context.Context) error { a.m.endpoint.leave(); return nil })
	conn, err := a.m.endpoint.connect(ctx, monitorSocket)
	if err != nil {
		return a.silent(ctx, err)
	}
	a.m.mon = newMonitor(conn, a.m.event)
	a.back.Push("monitor", func(context.Context) error { _ = a.m.mon.Close(); return nil })
	return a.ask(ctx, "qmp_capabilities", nil, nil)
}

func (a *adoption) ask(ctx context.Context, name string, args, out any) error {
	if err := a.m.mon.execute(ctx, name, args, out); err != nil {
		return a.silent(ctx, err)
	}
	return nil
}

// silent tells a machine that ended meanwhile from one that does not answer.
func (a *adoption) silent(ctx context.Context, err error) error {
	select {
	case <-a.m.proc.done:
		return errNotThere()
	case <-ctx.Done():
	case <-time.After(dyingLimit):
		if gone(a.pidfd) {
			return errNotThere()
		}
	}
	return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "the VMM does not answer", Err: errors.Join(context.Cause(ctx), err, a.m.said())}
}

// merges ends what the last owner was merging: the drives are then settled.
func (a *adoption) merges(ctx context.Context) error {
	for i := range a.launched() {
		if err := a.m.endJob(ctx, mergeJob(i)); err != nil {
			return a.silent(ctx, err)
		}
	}
	return nil
}

// drives finds out what is behind the drives: what was at the launch, which the
// command line says, and what was pushed and merged since, of which QEMU says
// what there is.
func (a *adoption) drives(ctx context.Context) error {
	var nodes []struct {
		Node string `json:"node-name"`
		File string `json:"file"`
	}
	roots, err := a.m.roots(ctx)
	if err == nil {
		err = a.m.ask(ctx, "query-named-block-nodes", map[string]bool{"flat": true}, &nodes)
	}
	if err != nil {
		return a.silent(ctx, err)
	}
	handed, err := a.m.fdSets(ctx)
	if err != nil {
		return a.silent(ctx, err)
	}
	paths := map[string]string{}
	for id, path := range handed {
		paths[setName(id)] = path
	}
	files := map[string]string{}
	for _, n := range nodes {
		files[n.Node] = orElse(paths[n.File], n.File)
	}
	a.m.drives = nil
	for i, d := range a.launched() {
		found, err := assemble(i, d, roots, files)
		if err != nil {
			return err
		}
		a.m.drives = append(a.m.drives, found)
	}
	for i := range a.m.drives {
		if err := a.m.dropStale(ctx, i); err != nil {
			return a.silent(ctx, err)
		}
	}
	a.m.sets = len(nodes) // enough to be above all names
	return nil
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// launched are the drives on the command line.
func (a *adoption) launched() (drives []vmm.Drive) {
	for i, arg := range a.args {
		if i == 0 || a.args[i-1] != "-blockdev" {
			continue
		}
		var b blockdev
		if json.Unmarshal([]byte(arg), &b) != nil {
			continue
		}
		d := vmm.Drive{Path: b.File.Filename, ReadOnly: b.ReadOnly}
		for below := b.Backing; below != nil; below = below.Backing {
			d.Below = append(d.Below, below.File.Filename)
		}
		drives = append(drives, d)
	}
	return drives
}

// blockdev is a block node as drive writes it.
type blockdev struct {
	ReadOnly bool `json:"read-only"`
	File     struct {
		Filename string `json:"filename"`
	} `json:"file"`
	Backing *blockdev `json:"backing"`
}

// status notices what happened while nobody looked.
func (a *adoption) status(ctx context.Context) error {
	var s struct{ Status string }
	if err := a.ask(ctx, "query-status", nil, &s); err != nil {
		return err
	}
	var missed message // as if it came only now
	switch s.Status {
	case "shutdown":
		missed.Event = "SHUTDOWN"
	case "guest-panicked":
		missed.Event, missed.Data.Reason = "SHUTDOWN", "guest-panic"
	case "internal-error", "io-error":
		missed.Event = "STOP"
	case "inmigrate", "prelaunch":
		return dayfly.Errorf(dayfly.Unavailable, "the machine was never launched to the end")
	}
	a.m.event(missed)
	return nil
}

// gone reports whether the process of a pidfd has ended.
func gone(pidfd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}
