package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// entryAt describes the file at a path, reported as such.
func (a *Agent) entryAt(path string) (*wire.EntryInfo, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	return a.entry(path, path, fi), nil
}

// entry describes a file found at one path and reported as another: where a
// directory was reached through a symbolic link they differ.
func (a *Agent) entry(at, reported string, fi fs.FileInfo) *wire.EntryInfo {
	e := &wire.EntryInfo{
		Name:         filepath.Base(reported),
		Type:         fileType(fi.Mode()),
		Path:         reported,
		Size:         wire.Int64(fi.Size()),
		Mode:         uint32(fi.Mode().Perm()),
		Permissions:  fi.Mode().String(),
		ModifiedTime: jsonTime(fi.ModTime()),
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		e.Owner, e.Group = a.accounts.names(st.Uid, st.Gid)
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		followLink(e, at)
	} else {
		e.Metadata = readMetadata(at)
	}
	return e
}

// followLink adds what a symbolic link leads to. One that leads nowhere stays
// a link, with the text it holds.
func followLink(e *wire.EntryInfo, at string) {
	e.IsSymlink = true
	target, err := filepath.EvalSymlinks(at)
	if err == nil {
		if fi, err := os.Stat(target); err == nil {
			e.Type, e.Mode = fileType(fi.Mode()), uint32(fi.Mode().Perm())
		}
	} else {
		target, _ = os.Readlink(at)
	}
	e.SymlinkTarget = &target
}

func fileType(m fs.FileMode) wire.FileType {
	switch {
	case m.IsRegular():
		return wire.FileRegular
	case m.IsDir():
		return wire.FileDirectory
	case m&fs.ModeSymlink != 0:
		return wire.FileSymlink
	}
	return wire.FileUnspecified
}

// jsonTime keeps a time within what protobuf's Timestamp can say: a file may
// claim to be from any year.
func jsonTime(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() < 1:
		return time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// fileError is an error of the file system as a procedure reports it.
func fileError(doing, path string, err error) error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	code := wire.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wire.Errorf(wire.NotFound, "%s: path not found: %s", doing, path)
	case isFull(err), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		code = wire.ResourceExhausted
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		code = wire.PermissionDenied
	case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ETXTBSY), errors.Is(err, fs.ErrExist):
		code = wire.FailedPrecondition
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EXDEV):
		code = wire.InvalidArgument
	}
	return wire.Errorf(code, "%s %s: %v", doing, path, reason(err))
}
