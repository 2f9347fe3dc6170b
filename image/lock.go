package image

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lock is an exclusive flock on a file that exists for the lock only. The
// kernel gives it up with the last descriptor, so a killed holder holds nothing.
type lock struct{ file *os.File }

var errLocked = errors.New("locked by someone else")

const (
	lockPoll     = 5 * time.Millisecond
	lockPollMost = 200 * time.Millisecond
)

// lockFile waits for the lock at path until ctx ends.
func lockFile(ctx context.Context, path string) (*lock, error) {
	for wait := lockPoll; ; wait = min(2*wait, lockPollMost) {
		l, err := tryLockFile(path)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// tryLockFile takes the lock at path, or says errLocked.
func tryLockFile(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(f, unix.LOCK_EX)
		if err != nil {
			f.Close()
			return nil, err
		}
		// The last holder removed its file. Whoever waited on that one holds a
		// lock nobody else can see.
		if same(f, path) {
			return &lock{f}, nil
		}
		f.Close()
	}
}

// release removes the file, then the lock.
func (l *lock) release() {
	_ = os.Remove(l.file.Name())
	_ = l.file.Close()
}

// flock takes a lock without waiting, or says errLocked.
func flock(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return errLocked
		default:
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// same reports whether path still leads to the open file.
func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}
