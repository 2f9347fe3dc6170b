package image

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/flock"
)

// lock is an exclusive flock on a file that exists for the lock only. The
// kernel gives it up with the last descriptor, so a killed holder holds nothing.
type lock struct{ file *os.File }

// lockFile waits for the lock at path until ctx ends.
func lockFile(ctx context.Context, path string) (l *lock, err error) {
	err = flock.Within(ctx, flock.Forever, func() error {
		l, err = tryLockFile(path)
		return err
	})
	return l, err
}

// tryLockFile takes the lock at path, or says flock.ErrHeld.
func tryLockFile(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock.Try(f, unix.LOCK_EX)
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

// same reports whether path still leads to the open file.
func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}
