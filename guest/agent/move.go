package agent

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// move renames a file or directory. Where the kernel cannot (another file
// system, or a directory of the image below an overlay) it is copied and
// removed, as mv does.
func (a *Agent) move(r *http.Request, req *wire.MoveRequest) (*wire.EntryResponse, error) {
	user, from, err := a.pathOf(r, req.Source)
	if err != nil {
		return nil, err
	}
	to, err := a.state.Load().resolve(user, req.Destination)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(from); err != nil {
		return nil, fileError("move", from, err)
	}
	if err := makeDirs(filepath.Dir(to), user); err != nil {
		return nil, fileError("move to", to, err)
	}
	err = os.Rename(from, to)
	if errors.Is(err, syscall.EXDEV) {
		err = moveByCopy(from, to)
	}
	if err != nil {
		return nil, fileError("move to", to, err)
	}
	return a.stat(user, to)
}

// moveByCopy copies next to the destination, renames, and then removes the
// source: the destination is never half there.
func moveByCopy(from, to string) error {
	if to == from || strings.HasPrefix(to, from+"/") {
		return syscall.EINVAL
	}
	dir, err := os.MkdirTemp(filepath.Dir(to), ".move-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it is empty, or the move failed
	tmp := filepath.Join(dir, "x")
	if err := copyTree(from, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return os.RemoveAll(from)
}

// copyTree copies one file of any kind, or a directory with all below it:
// owner, mode, times and extended attributes too. Hard links become files of
// their own.
func copyTree(from, to string) error {
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return syscall.ENOTSUP
	}
	switch {
	case fi.IsDir():
		err = copyDir(from, to)
	case fi.Mode().IsRegular():
		err = copyFile(from, to)
	case fi.Mode()&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return copyAttributes(from, to, fi, st)
}

func copyDir(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// copyAttributes goes in an order that keeps set-uid bits and times: owner,
// mode, attributes, times.
func copyAttributes(from, to string, fi fs.FileInfo, st *syscall.Stat_t) error {
	if os.Geteuid() == 0 {
		if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if fi.Mode()&fs.ModeSymlink == 0 {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return err
		}
	}
	copyXattrs(from, to)
	times := []unix.Timespec{
		unix.NsecToTimespec(time.Unix(st.Atim.Unix()).UnixNano()),
		unix.NsecToTimespec(fi.ModTime().UnixNano()),
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
}

// copyXattrs copies what the other file system takes.
func copyXattrs(from, to string) {
	list := make([]byte, maxXattrList)
	n, err := unix.Llistxattr(from, list)
	if err != nil {
		return
	}
	value := make([]byte, maxXattrValue)
	for _, name := range strings.Split(string(list[:n]), "\x00") {
		if name == "" {
			continue
		}
		if size, err := unix.Lgetxattr(from, name, value); err == nil {
			_ = unix.Lsetxattr(to, name, value[:size], 0)
		}
	}
}
