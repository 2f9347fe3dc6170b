package layer

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dirRef is an open directory inside the root.
type dirRef struct {
	fd   int    // O_PATH; owned by the Root's cache
	ino  uint64 // its inode number
	name string // the clean path it was asked for by
}

const (
	maxSymlinks = 40 // as the kernel's MAXSYMLINKS
	maxAgain    = 16 // openat2 answers EAGAIN when anything on the host is renamed while it passes ".."
	implicit    = 0o755
)

// dirOf returns the directory called name, a clean absolute path, with every
// symbolic link resolved inside the root. It is valid until the next call or
// until something is removed.
func (r *Root) dirOf(name string, create bool) (dirRef, error) {
	if r.parent.fd >= 0 && r.parent.name == name {
		return r.parent, nil
	}
	r.forget()
	fd, err := r.openDir(name)
	if errors.Is(err, unix.EAGAIN) || create && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
		fd, err = r.walk(name, create)
	}
	if err != nil {
		return dirRef{fd: -1}, err
	}
	ref := dirRef{fd: fd, name: name}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return dirRef{fd: -1}, err
	}
	ref.ino = st.Ino
	r.parent = ref
	return ref, r.checkPlace(fd)
}

// forget drops the cached directory: after a removal the same path may lead
// elsewhere.
func (r *Root) forget() {
	if r.parent.fd >= 0 {
		_ = unix.Close(r.parent.fd)
	}
	r.parent = dirRef{fd: -1}
}

// openDir is the fast path: the kernel resolves.
func (r *Root) openDir(name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range maxAgain {
		fd, err := unix.Openat2(r.fd, name, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// checkPlace holds the bounds on paths where symbolic links made the real path
// longer than the one in the archive.
func (r *Root) checkPlace(fd int) error {
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if errors.Is(err, unix.ENAMETOOLONG) {
		return exceeded(r.parent.name, "path bytes", "more", r.limits.PathBytes)
	}
	if err != nil {
		return err
	}
	return r.checkPath(strings.TrimPrefix(real, r.dir) + "/")
}

// checkPath checks an absolute path; with a slash at its end all of it is
// directories.
func (r *Root) checkPath(name string) error {
	if len(name) > r.limits.PathBytes {
		return exceeded(name, "path bytes", len(name), r.limits.PathBytes)
	}
	if d := strings.Count(name, "/") - 1; d > r.limits.Depth {
		return exceeded(name, "directory depth", d, r.limits.Depth)
	}
	return nil
}

// walk is the slow path: it resolves name a component at a time, and with
// create makes what is missing, also behind a dangling symbolic link. Nobody
// else changes the tree, so a component looked at is still the same when used.
func (r *Root) walk(name string, create bool) (int, error) {
	var at []string // the real directories from the root down to here
	todo := split(name)
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			at = at[:max(0, len(at)-1)]
			continue
		}
		target, err := r.step(at, part, create)
		if err != nil {
			return -1, err
		}
		if target == "" {
			at = append(at, part)
			continue
		}
		if links++; links > maxSymlinks {
			return -1, unix.ELOOP
		}
		if path.IsAbs(target) {
			at = nil
		}
		todo = append(split(target), todo...)
		if len(todo) > maxSymlinks*r.limits.Depth {
			return -1, unix.ENAMETOOLONG
		}
	}
	return r.openReal(at)
}

// step looks at one component: it returns the target of a symbolic link, and ""
// for a directory, which with create it may have made. What a lower layer left
// there as a file gives way, as it does to an explicit directory.
func (r *Root) step(at []string, part string, create bool) (target string, err error) {
	fd, err := r.openReal(at)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstatat(fd, part, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT) && create:
		return "", r.makeParent(fd, part)
	case err != nil:
		return "", err
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return readlink(fd, part)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return "", nil
	}
	var dir unix.Stat_t
	if err := unix.Fstat(fd, &dir); err != nil {
		return "", err
	}
	if !create || r.own[place{dir.Ino, part}] {
		return "", unix.ENOTDIR
	}
	if err := unix.Unlinkat(fd, part, 0); err != nil {
		return "", err
	}
	return "", r.makeParent(fd, part)
}

func (r *Root) makeParent(fd int, name string) error {
	if r.entries++; r.entries > r.limits.Entries {
		return exceeded(name, "entries", r.entries, r.limits.Entries)
	}
	return makeDir(fd, name, implicit)
}

// openReal opens a directory by components none of which is a symbolic link.
func (r *Root) openReal(at []string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	return unix.Openat2(r.fd, "./"+strings.Join(at, "/"), &how)
}

func split(name string) []string {
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		if p != "" && p != "." {
			parts = append(parts, p)
		}
	}
	return parts
}

func readlink(dirfd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return string(buf[:max(n, 0)]), err
}

// makeDir makes a directory of root's with exactly this mode, whatever the umask.
func makeDir(dirfd int, name string, mode uint32) error {
	if err := unix.Mkdirat(dirfd, name, 0o700); err != nil {
		return err
	}
	return unix.Fchmodat(dirfd, name, mode, 0)
}
