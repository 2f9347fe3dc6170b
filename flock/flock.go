// Package flock takes advisory locks on files, which the kernel drops with the
// last descriptor of the open file they were taken by, and so with their process:
// whoever holds one lives.
//
// Or was alive just now. A child that a process has forked has all of its files
// until it becomes another program, and may outlive it by that moment: when its
// parent is killed, say, and its successor asks for the lock at once. And whoever
// looks for what the dead left holds locks while it looks. So nobody takes a lock
// that is held for a living owner's at the first look: they try Within a time.
//
// What a held lock means, the callers say.
package flock

import (
	"context"
	"errors"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that somebody else has the lock, in this process or in another.
var ErrHeld = errors.New("the lock is held")

// How long to try Within.
const (
	Moment  time.Duration = time.Second // longer than the dead keep a lock
	Forever time.Duration = math.MaxInt64
)

// Try takes the lock of a file (flock(2)) as unix.LOCK_EX or unix.LOCK_SH, or says
// ErrHeld without waiting.
func Try(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrHeld
		default:
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// TryRange takes the lock of a range of bytes (F_OFD_SETLK in fcntl(2)), or says
// ErrHeld without waiting.
func TryRange(f *os.File, r unix.Flock_t) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &r)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrHeld
	}
	if err != nil {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}

// The pause between two tries.
const (
	firstPause = time.Millisecond
	longPause  = 50 * time.Millisecond
)

// Within calls try again while that says ErrHeld, until so much time has gone by
// or ctx has ended. The error is then ErrHeld, or the cause of ctx's end.
func Within(ctx context.Context, patience time.Duration, try func() error) error {
	begun := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := try()
		if !errors.Is(err, ErrHeld) || time.Since(begun) >= patience {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
