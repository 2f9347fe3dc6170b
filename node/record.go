package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/snapshot"
)

// recordVersion is the version of record.json; docs/formats/record.md.
const recordVersion = 1

const recordFile = "record.json"

type record struct {
	Version   int              `json:"version"`
	Workspace dayfly.Workspace `json:"workspace"`

	// Outlives says that a process with Config.Outlive has the workspace: what
	// becomes of it is for such a one to say, also when none lives.
	Outlives bool `json:"outlives,omitempty"`

	// Machine is there while it runs with a machine that outlives its owner.
	Machine *snapshot.Machine `json:"machine,omitempty"`

	// Stopping says of a running one that its guest was asked to power off.
	Stopping bool `json:"stopping,omitempty"`
}

func workspaceDir(dir string, id dayfly.ID) string {
	return filepath.Join(dir, "workspaces", string(id))
}

// write replaces the record in dir atomically. What is to be kept is on the medium
// then, with the names of all other files in dir; else nothing is waited for: a
// workspace that is not to be kept ends with the host.
func (r record) write(dir string) error {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	keep := r.kept() && r.Workspace.State != dayfly.Creating
	tmp := filepath.Join(dir, "."+recordFile)
	err = os.WriteFile(tmp, b, 0o600)
	if err == nil && keep {
		err = syncPath(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, recordFile))
	}
	if err != nil {
		_ = os.Remove(tmp) // it may never have been there
		return err
	}
	if !keep {
		return nil
	}
	return syncPath(dir)
}

// replace writes the record, and if that fails puts back the one that was there: the
// new one may have taken its place, though not durably.
func (r record) replace(dir string, was record) error {
	err := r.write(dir)
	if err != nil {
		_ = was.write(dir) // which is in its place where this fails for want of space
	}
	return err
}

// readRecord returns NotFound where there is no workspace of that id.
func readRecord(dir string, id dayfly.ID) (record, error) {
	b, err := os.ReadFile(filepath.Join(workspaceDir(dir, id), recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, dayfly.Errorf(dayfly.NotFound, "there is no workspace %s (see: dayfly ls)", id)
	}
	if err != nil {
		return record{}, fmt.Errorf("node: record: %w", err)
	}
	return parseRecord(b)
}

func parseRecord(b []byte) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("node: record: %w", err)
	}
	if r.Version != recordVersion {
		return record{}, dayfly.Errorf(dayfly.Unavailable, "the workspace was written by another release (record version %d, this one knows %d): use that release", r.Version, recordVersion)
	}
	return r, nil
}

// removeHome removes a workspace's directory, durably. The record goes first, so
// that a crash half-way leaves something a sweep recognises as garbage.
func removeHome(dir string) error {
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("node: home: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("node: home: %w", err)
	}
	return syncPath(filepath.Dir(dir))
}

// syncAll makes the files of a directory durable. One that goes meanwhile is none.
func syncAll(dir string) error {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("node: sync: %w", err)
	}
	for _, e := range ents {
		if e.Type().IsRegular() {
			if err := syncPath(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return syncPath(dir)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("node: sync: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("node: sync: %w", err)
	}
	return nil
}

// lock is the mark of a living owner: a flock, which the kernel drops with the
// process.
type lock struct{ file *os.File }

// lockWorkspace takes the lock of a workspace, or says Conflict if another
// process has it.
func lockWorkspace(dir string, id dayfly.ID) (*lock, error) {
	path := filepath.Join(dir, "locks", string(id))
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("node: lock: %w", noSpace(err))
		}
		if err := flock.Try(f, unix.LOCK_EX); err != nil {
			f.Close()
			if errors.Is(err, flock.ErrHeld) {
				return nil, &dayfly.Error{Kind: dayfly.Conflict, Msg: fmt.Sprintf("workspace %s belongs to another running dayfly process: use that one, or end it first", id), Err: err}
			}
			return nil, fmt.Errorf("node: lock: %w", err)
		}
		if current(f, path) {
			return &lock{f}, nil
		}
		f.Close() // removed by its last holder between open and lock: again
	}
}

// sweepTime is how long a sweep of another process may hold the lock of what is not
// its own, as it looks whether there is anything to sweep.
const sweepTime = 2 * time.Second

// lockNew takes the lock of an id that nobody has yet. The file of a lock is there a
// moment before the lock is, which is when a sweep may be first: that is waited for.
func lockNew(dir string, id dayfly.ID) (*lock, error) {
	return lockWithin(context.Background(), dir, id, sweepTime)
}

// lockWithin takes a lock, and waits for whoever has it for so long.
func lockWithin(ctx context.Context, dir string, id dayfly.ID, patience time.Duration) (l *lock, err error) {
	err = flock.Within(ctx, patience, func() error {
		l, err = lockWorkspace(dir, id)
		return err
	})
	return l, err
}

// current reports whether path still names the open file.
func current(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// release gives the lock up. Its file goes with the workspace.
func (l *lock) release() {
	name := l.file.Name()
	id := filepath.Base(name)
	home := filepath.Join(filepath.Dir(filepath.Dir(name)), "workspaces", id)
	if _, err := os.Lstat(home); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(name) // while still held, so that nobody else has it open and locked
	}
	l.file.Close()
}

// now is the time in records: to the millisecond, which is all that callers compare.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// clock counts the milliseconds of one start.
type clock struct{ began time.Time }

func newClock() clock { return clock{time.Now()} }

func (c clock) ms() float64 { return float64(time.Since(c.began).Microseconds()) / 1e3 }
