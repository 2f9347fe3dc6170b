package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// adoption is a machine being taken over.
type adoption struct {
	driver *Driver
	config vmm.Config
	back   undo.Stack
	m      *machine
	pidfd  *os.File
}

// Adopt takes over a machine that is alone: it becomes the owner of its
// directory, finds its process by its command line, and asks it over the API
// that has its socket there.
func (d *Driver) Adopt(ctx context.Context, c vmm.Config) (_ vmm.Machine, err error) {
	a := &adoption{driver: d}
	if a.config, err = absolute(c); err != nil {
		return nil, err
	}
	a.config.Orphan = true
	defer func() {
		if err != nil {
			err = errors.Join(err, a.back.Run(ctx))
		}
	}()
	for _, step := range []func(context.Context) error{
		a.own, a.find, a.inherit, a.drives, a.greet, a.listen,
	} {
		if err := step(ctx); err != nil {
			return nil, a.verdict(ctx, err)
		}
	}
	a.back.Keep()
	a.m.begin()
	return a.m, nil
}

// verdict is the error of a step that failed. One that is ending fails all of
// them in some way, be it that it has no files any more.
func (a *adoption) verdict(ctx context.Context, err error) error {
	if a.m == nil || a.m.proc == nil || dayfly.KindOf(err) == dayfly.Conflict {
		return err
	}
	if a.m.proc.dies(ctx) {
		return a.gone()
	}
	return err
}

// own becomes the machine's owner.
func (a *adoption) own(ctx context.Context) error {
	if fi, err := os.Stat(a.config.Dir); err != nil || !fi.IsDir() {
		return notRunning()
	}
	h, err := openHome(ctx, a.config.Dir)
	if err != nil {
		return err
	}
	a.back.Push("directory", func(context.Context) error { h.close(); return nil })
	a.m = newMachine(a.config, h, a.driver)
	a.back.Push("api", func(context.Context) error { a.m.api.close(); return nil })
	return nil
}

func notRunning() error {
	return dayfly.Errorf(dayfly.NotFound, "no such machine runs any more")
}

// gone is the end of the adoption of a machine that has ended. What it left in
// its directory, nobody else takes away.
func (a *adoption) gone() error {
	return errors.Join(notRunning(), a.m.home.clear(), a.m.home.unlink(ownerLock))
}

// find looks for the process, and holds on to it.
func (a *adoption) find(ctx context.Context) error {
	pids, err := Orphans(ctx, a.config.Dir)
	if err != nil {
		return err
	}
	a.back.Push("process", func(context.Context) error {
		if a.m.proc != nil {
			a.m.proc.forget()
		}
		return nil
	})
	strangers := 0
	for _, pid := range pids {
		pidfd, err := openPidfd(pid)
		if err != nil {
			continue // gone meanwhile
		}
		found, err := attach(pid, pidfd)
		if err != nil {
			return fmt.Errorf("firecracker: adopt: %w", err)
		}
		if processOf(pid) == processName(a.config) {
			a.m.proc, a.pidfd = found, pidfd
			if err := a.lodge(pid); err != nil || a.ours() {
				return err
			}
			found, a.m.proc = a.m.proc, nil
		}
		// Another one's, or another machine's; or one that is ending, which has no
		// name and no mounts any more.
		if !found.dies(ctx) {
			strangers++
		}
		found.forget()
	}
	if strangers == 0 {
		return a.gone()
	}
	return notRunning()
}

// lodge finds what the process lives in. One that was launched without a Spawner
// lives where we do.
func (a *adoption) lodge(pid int) error {
	if a.config.Spawner == nil {
		return nil
	}
	found, err := a.config.Spawner.Adopt(pid)
	if dayfly.KindOf(err) == dayfly.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	in, ok := found.(vmm.Furnished)
	if !ok {
		found.Leave()
		return dayfly.Errorf(dayfly.Unavailable, "the machine's process cannot be reached where it lives")
	}
	watched := a.m.proc.forget
	a.m.proc = &process{
		pid: pid, done: in.Done(), signal: in.Kill, state: in.State, cause: in.Err, inside: in,
		forget: func() { in.Leave(); watched() },
	}
	dir, err := in.Look(insideDir)
	if err == nil {
		return a.m.home.enter(dir)
	}
	return fmt.Errorf("firecracker: adopt: %w", err)
}

// ours reports whether the process has the machine's drives: what it is called
// by, another one that was taken over could call itself, but it has no mounts of
// this one's.
func (a *adoption) ours() bool {
	if a.m.proc.inside == nil {
		return true
	}
	for i := range a.config.Drives {
		name := driveName(i)
		to, err := a.m.home.target(name)
		if err != nil {
			return false
		}
		if _, err := os.Stat(to); err == nil && a.m.shown([]string{newName(name), name}, i) == "" {
			return false
		}
	}
	return true
}

// inherit takes the files that the process was given at its launch.
func (a *adoption) inherit(context.Context) (err error) {
	m := a.m
	a.back.Push("files", func(context.Context) error {
		closeAll([]*os.File{m.state, m.spare, m.kept})
		return nil
	})
	if m.state, err = a.take(stateFD, "state"); err != nil {
		return err
	}
	if m.spare, err = a.take(spareFD, "spare"); err != nil {
		return err
	}
	memory, err := a.take(memoryFD, "memory")
	if err != nil {
		return err
	}
	m.kept = memory
	spare, err := sameFile(memory, m.spare)
	if err != nil || spare {
		return err
	}
	m.base = memory
	// One that has its file mapped has begun as it; the other one only saves to it.
	_, err = m.mappings()
	m.shared = errors.Is(err, errNotFound)
	if m.shared {
		err = nil
	}
	return err
}

// take returns a copy of a descriptor of the process's.
func (a *adoption) take(fd int, name string) (*os.File, error) {
	raw, err := a.pidfd.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("firecracker: adopt: %w", err)
	}
	copied := -1
	ctlErr := raw.Control(func(pidfd uintptr) { copied, err = unix.PidfdGetfd(int(pidfd), fd, 0) })
	if err = errors.Join(err, ctlErr); err != nil {
		return nil, &dayfly.Error{Kind: dayfly.Unavailable, Msg: "the machine's files cannot be taken over", Err: fmt.Errorf("firecracker: %s: %w", name, err)}
	}
	f := os.NewFile(uintptr(copied), name)
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() && fi.Mode()&os.ModeType != os.ModeDevice {
		_ = f.Close()
		return nil, dayfly.Errorf(dayfly.Unavailable, "the machine's files cannot be taken over: its %s is no file", name)
	}
	return f, nil
}

func sameFile(f, g *os.File) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	gi, err := g.Stat()
	return err == nil && os.SameFile(fi, gi), err
}

// drives takes the locks over: those that the process has inherited with it, of
// a drive that was set later a new one.
func (a *adoption) drives(ctx context.Context) error {
	m := a.m
	a.back.Push("drives", func(context.Context) error { closeDrives(m.drives); return nil })
	var is vmConfig
	if err := m.api.do(ctx, request{http.MethodGet, "/vm/config", nil, false}, &is); err != nil {
		return unanswered(err)
	}
	for i, d := range a.config.Drives {
		path, err := m.behind(is, i)
		if err != nil {
			return err
		}
		d = vmm.Drive{Path: path, ReadOnly: d.ReadOnly}
		lock, err := a.take(driveFD+i, driveName(i))
		if err != nil {
			return err
		}
		if fi, err := os.Stat(path); err == nil && isFile(lock, fi) {
			m.drives = append(m.drives, attached{d, lock})
			if err := m.drives[i].hold(ctx); err != nil {
				return err
			}
			continue
		}
		_ = lock.Close()
		set, err := lockDrive(ctx, d)
		if err != nil {
			return err
		}
		m.drives = append(m.drives, set)
	}
	return nil
}

func isFile(f *os.File, is os.FileInfo) bool {
	fi, err := f.Stat()
	return err == nil && os.SameFile(fi, is)
}

// unanswered is the error of a machine that runs and cannot be asked.
func unanswered(err error) error {
	return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "the machine does not answer: it runs on, and nobody owns it", Err: err}
}

// greet sees whether the machine is one.
func (a *adoption) greet(ctx context.Context) error {
	var is instanceInfo
	if err := a.m.api.do(ctx, request{http.MethodGet, "/", nil, false}, &is); err != nil {
		return unanswered(err)
	}
	if is.State != stateRunning && is.State != statePaused { // its owner died while it made it
		return unanswered(fmt.Errorf("firecracker: it is %.40q", is.State))
	}
	return nil
}

// listen begins to read the pipes.
func (a *adoption) listen(context.Context) error {
	m := a.m
	a.back.Push("pipes", func(context.Context) error {
		for _, p := range m.pipes {
			p.hangUp()
		}
		if m.metrics != nil {
			m.metrics.close()
		}
		return nil
	})
	return m.hear(a.driver)
}
