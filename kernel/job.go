package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/flock"
)

// job is a private directory under the store's tmp for work that may be killed
// at any moment. Its maker holds a lock on it; a job without a lock is dead.
type job struct {
	dir  string
	lock *os.File
}

// newJob makes a job's directory. The caller removes it.
func (s *Store) newJob(kind string) (*job, error) {
	// Between being made and being locked a job would look dead to a sweep.
	unlock, err := lockDir(context.Background(), s.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(s.temp(), kind+"-")
	if err != nil {
		return nil, err
	}
	lock, err := openLocked(context.Background(), dir, atOnce)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &job{dir: dir, lock: lock}, nil
}

// remove deletes what the job made, unless it was published by a rename.
func (j *job) remove() {
	// Whatever cannot be removed now is swept by the next Open.
	_ = os.RemoveAll(j.dir)
	_ = j.lock.Close()
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }

// sweep removes the jobs of killed processes.
func (s *Store) sweep() error {
	left, err := os.ReadDir(s.temp())
	if err != nil || len(left) == 0 {
		return err
	}
	unlock, err := lockDir(context.Background(), s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, d := range left {
		if err := sweepJob(filepath.Join(s.temp(), d.Name())); err != nil {
			return err
		}
	}
	return nil
}

func sweepJob(path string) error {
	lock, err := openLocked(context.Background(), path, atOnce)
	switch {
	case errors.Is(err, flock.ErrHeld): // somebody works on it
		return nil
	case errors.Is(err, os.ErrNotExist): // somebody has just finished
		return nil
	case err != nil:
		return err
	}
	defer lock.Close()
	return os.RemoveAll(path)
}

// atOnce is how long a lock is waited for that nobody ought to have.
const atOnce = 0

// lockDir holds a lock on a directory until unlock is called or the process dies.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := openLocked(ctx, dir, flock.Forever)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func openLocked(ctx context.Context, path string, patience time.Duration) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = flock.Within(ctx, patience, func() error { return flock.Try(f, unix.LOCK_EX) })
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}
