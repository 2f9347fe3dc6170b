package boot

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Rehearse goes through a start on throw-away parts and undoes it: afterwards
// the code of a start has run once, and the machine is as empty as before. run
// starts a command as a client would, from the goroutine it is called in, and
// waits for its end. It may be repeated until Init.
func (s *System) Rehearse(ctx context.Context, in wire.Init, run func() (exitCode int, err error)) (reply wire.RehearseReply, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer clearKey(&in)
	if s.done != nil {
		return reply, dayfly.Errorf(dayfly.Conflict, "the machine is a workspace already: only an empty one can rehearse")
	}
	if in.Root == nil {
		return reply, dayfly.Errorf(dayfly.Invalid, "rehearse: the host named no root")
	}
	watch := start()
	devices := []string{in.Root.Image, in.Root.Disk}
	onOwnThread(func() { reply.ExitCode, err = s.rehearse(ctx, &in, run, watch) })
	if err == nil {
		err = watch.time("forget", func() error { return forget(devices) })
	}
	reply.Timeline = watch.line
	return reply, err
}

// forget removes the mapped device and what is in memory of those below it, so
// that another content behind the same devices is read anew.
func forget(devices []string) error {
	err := closeCrypt(rehearsalDev)
	for _, dev := range devices {
		err = errors.Join(err, forgetPages(dev))
	}
	return err
}

// onOwnThread calls f in a thread that ends with it, and waits for f. The main
// thread does not: Go never ends it, and it is the one that others see in
// /proc/1.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, so that the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(f) // another one, as this is held
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// rehearse runs in a thread of its own, whose mounts nobody else sees.
func (s *System) rehearse(ctx context.Context, in *wire.Init, run func() (int, error), watch *stopwatch) (code int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return 0, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, err
	}
	outside, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(outside)
	name := hostname()
	r := &root{sys: s, crypt: rehearsalDev, rehearsal: true, arrived: watch.began}
	defer func() {
		err = errors.Join(err, watch.time("undo", func() error { return r.undo(outside, name) }))
	}()
	if err := r.build(ctx, in, watch); err != nil {
		return 0, err
	}
	err = watch.time("command", func() error {
		var err error
		code, err = run()
		return err
	})
	return code, err
}

// undo takes back what the steps did, however far they came.
func (r *root) undo(outside int, name string) error {
	errs := []error{
		endAll(),
		unix.Fchdir(outside),
		unix.Chroot("."),
		r.sys.groups.close(),
	}
	if r.disk != nil {
		errs = append(errs, r.disk.Close())
	}
	for _, m := range []struct {
		dir   string
		flags int
	}{{rootDir, unix.MNT_DETACH}, {lowerDir, 0}, {diskDir, 0}} {
		if err := unmount(m.dir, m.flags); err != nil {
			errs = append(errs, &unmountError{m.dir, err})
		}
	}
	errs = append(errs, loopback(0), unix.Sethostname([]byte(name)))
	return errors.Join(errs...)
}

type unmountError struct {
	dir string
	err error
}

func (e *unmountError) Error() string { return "unmount " + e.dir + ": " + e.err.Error() }
func (e *unmountError) Unwrap() error { return e.err }

// Bounds of waiting for what is about to end.
const (
	undoDeadline = 5 * time.Second
	undoPause    = 2 * time.Millisecond
)

// unmount unmounts dir. What is not mounted is fine; what is busy, as the last
// process in it is being put away by the kernel, is tried again.
func unmount(dir string, flags int) error {
	var err error
	ok := await(func() bool {
		err = unix.Unmount(dir, flags)
		return !errors.Is(err, unix.EBUSY)
	})
	if ok && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)) {
		return nil
	}
	return err
}

// endAll kills every process but this one. Before Init there is none that a
// rehearsal did not start.
func endAll() error {
	if onlyKernelThreads() {
		return nil
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	if !await(onlyKernelThreads) {
		return errors.New("processes of the rehearsal do not end")
	}
	return nil
}

// await waits until cond says true, which it has no event for, and says whether
// it did.
func await(cond func() bool) bool {
	tick := time.NewTicker(undoPause)
	defer tick.Stop()
	for deadline := time.Now().Add(undoDeadline); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
