package image

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dayfly/dayfly/flock"
)

// scratch is a private directory for work under way. It is held by a lock, so
// that a sweep can tell it from what a killed process left.
type scratch struct {
	dir  string
	lock *lock
	log  *slog.Logger
}

const lockSuffix = ".lock"

// scratch makes one. The lock comes before the directory and goes after it.
func (s *Store) scratch() (*scratch, error) {
	for {
		dir := s.path(tempDir, strings.ToLower(rand.Text()))
		l, err := tryLockFile(dir + lockSuffix)
		if errors.Is(err, flock.ErrHeld) {
			continue // a sweep looks at the new file at this very moment
		}
		if err != nil {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			l.release()
			return nil, err
		}
		return &scratch{dir, l, s.log}, nil
	}
}

func (t *scratch) path(name string) string { return filepath.Join(t.dir, name) }

// clear removes the directory and gives up the lock.
func (t *scratch) clear() error {
	err := os.RemoveAll(t.dir)
	t.lock.release()
	return err
}

// remove is clear for those who have nobody to tell: what it cannot remove,
// a sweep can.
func (t *scratch) remove() {
	if err := t.clear(); err != nil {
		t.log.Warn("work under way not removed", "dir", filepath.Base(t.dir), "err", err)
	}
}

// write puts content at path for good: a reader sees all of it or none. Until
// it is complete it is in a scratch directory, where a sweep knows its owner.
func (s *Store) write(path string, content []byte) error {
	t, err := s.scratch()
	if err != nil {
		return err
	}
	defer t.remove()
	f, err := os.OpenFile(t.path("new"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return rename(f.Name(), path)
}

// rename moves a synced file to its place and makes that durable.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
