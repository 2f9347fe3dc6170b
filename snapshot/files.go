package snapshot

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// files is every operation by which this package changes a disk, so that a
// test can fail exactly one, or cut the power after it.
type files interface {
	Mkdir(path string) error          // mode 0700
	Create(path string) (file, error) // mode 0600, refuses what exists
	Link(from, to string) error
	Clone(from *os.File, to file) error // all content, sharing its blocks
	Sync(path string) error             // a file's content or a directory's entries
	Rename(from, to string) error       // refuses what exists
	Remove(path string) error
	RemoveAll(path string) error
}

// file is a file being written.
type file interface {
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	Fd() uintptr
}

// host is the files of this machine.
type host struct{}

func (host) Mkdir(path string) error { return os.Mkdir(path, 0o700) }

func (host) Create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err // not f: a nil *os.File in an interface is not nil
	}
	return f, nil
}

func (host) Link(from, to string) error { return os.Link(from, to) }

func (host) Clone(from *os.File, to file) error {
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
}

func (host) Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Rename never replaces: a plain rename would take the place of an empty
// directory. Where the file system cannot do that in one step, a look before
// has to do; callers keep one path to one process.
func (host) Rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, fs.ErrExist)
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (host) Remove(path string) error { return os.Remove(path) }

func (host) RemoveAll(path string) error { return os.RemoveAll(path) }
