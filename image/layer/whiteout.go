package layer

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The markers of the OCI image specification, and the prefix of aufs's own
// bookkeeping, which old images carry and nobody needs.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// whiteout applies a marker. It hides what lower layers have, so what this
// layer has put there stays, whichever of the two came first in the archive.
func (r *Root) whiteout(parent dirRef, base string) error {
	if base == whiteoutOpaque {
		fd, err := reopen(parent.fd)
		if err != nil {
			return err
		}
		return r.clear(fd, parent.ino)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return invalid(base, "is not a valid whiteout")
	}
	at, err := reopen(parent.fd)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	r.forget()
	return r.remove(at, parent.ino, name)
}

// clear removes what lower layers have in the directory fd, which it closes.
func (r *Root) clear(fd int, ino uint64) error {
	r.forget()
	dir := os.NewFile(uintptr(fd), "directory")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.remove(fd, ino, name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes name and all below it, except what this layer put there.
func (r *Root) remove(at int, atIno uint64, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return ignore(err, unix.ENOENT)
	}
	own := r.own[place{atIno, name}]
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if own {
			return nil
		}
		return unix.Unlinkat(at, name, 0)
	}
	fd, err := openChild(at, name)
	if err != nil {
		return err
	}
	if err := r.clear(fd, st.Ino); err != nil || own {
		return err
	}
	err = unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		// Something of this layer is below, so the directory is a missing
		// parent now, as it would be had the whiteout come first.
		return resetDir(at, name)
	}
	return err
}

func resetDir(at int, name string) error {
	if err := unix.Fchownat(at, name, 0, 0, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := unix.Fchmodat(at, name, implicit, 0); err != nil {
		return err
	}
	return dropXattrs(at, name, nil)
}

// removeAll removes name and all below it.
func removeAll(at int, name string) error {
	err := unix.Unlinkat(at, name, 0)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return ignore(err, unix.ENOENT)
	}
	fd, err := openChild(at, name)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), "directory")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, child := range names {
		if err := removeAll(fd, child); err != nil {
			return err
		}
	}
	return unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
}

// openChild opens a directory for reading.
func openChild(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// reopen opens an O_PATH directory for reading.
func reopen(fd int) (int, error) { return openChild(fd, ".") }

func ignore(err error, but unix.Errno) error {
	if errors.Is(err, but) {
		return nil
	}
	return err
}
