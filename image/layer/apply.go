package layer

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Apply reads one layer to the end of its archive and applies it. Bytes after
// that are left unread. A malformed archive is an Invalid error, a breach of a
// limit an Exhausted one; both name the entry. After an error the root is good
// for nothing.
func (r *Root) Apply(ctx context.Context, archive io.Reader) error {
	r.own = map[place]bool{}
	r.times = map[string]dirAge{}
	tr := tar.NewReader(archive)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return r.setDirTimes()
		}
		if err != nil {
			return archiveError("", err)
		}
		if err := r.entry(ctx, hdr, tr); err != nil {
			return archiveError(hdr.Name, err)
		}
	}
}

// archiveError makes what the archive is to blame for an Invalid error, and
// leaves alone what the host, the caller or the source of the bytes is.
func archiveError(name string, err error) error {
	var e *dayfly.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return dayfly.Errorf(dayfly.Invalid, "the archive is damaged or not a tar archive (after %s)", quote(name))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return dayfly.Errorf(dayfly.Invalid, "the archive ends in the middle of an entry (%s)", quote(name))
	}
	for _, blame := range []unix.Errno{
		unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EEXIST, unix.EINVAL,
		unix.EPERM, unix.EMLINK, unix.EXDEV, unix.ERANGE, unix.E2BIG, unix.EFBIG,
	} {
		if errors.Is(err, blame) {
			return invalid(name, "%w", blame)
		}
	}
	return err
}

// entry applies one entry.
func (r *Root) entry(ctx context.Context, hdr *tar.Header, content io.Reader) error {
	if r.entries++; r.entries > r.limits.Entries {
		return exceeded(hdr.Name, "entries", r.entries, r.limits.Entries)
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	// Cleaning an absolute path drops every "..", so only the targets of
	// symbolic links can still hold one.
	name := path.Clean("/" + hdr.Name)
	if err := r.checkPath(name); err != nil {
		return err
	}
	dir, base := path.Split(name)
	if base == "" {
		return nil // the root itself belongs to whoever mounts it, as in containerd
	}
	parent, err := r.dirOf(path.Clean(dir), true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return r.whiteout(parent, base)
	}
	if err := checkHeader(hdr); err != nil {
		return err
	}
	return r.put(ctx, item{hdr: hdr, name: name, base: base, parent: parent, content: content})
}

// item is one entry on its way into the tree.
type item struct {
	hdr     *tar.Header
	name    string // clean and absolute
	base    string
	parent  dirRef
	content io.Reader
}

// put replaces what is at the item's place; only a directory over a directory
// merges.
func (r *Root) put(ctx context.Context, it item) error {
	exists, isDir, err := lstat(it.parent.fd, it.base)
	if err != nil {
		return err
	}
	merge := isDir && it.hdr.Typeflag == tar.TypeDir
	if exists && !merge {
		if err := removeAll(it.parent.fd, it.base); err != nil {
			return err
		}
	}
	if !merge {
		if err := r.make(ctx, it); err != nil {
			return err
		}
	}
	if err := r.describe(it, merge); err != nil {
		return err
	}
	r.own[place{it.parent.ino, it.base}] = true
	if exists && !merge {
		r.forget()
	}
	return nil
}

// make creates the item's inode, or for a hard link its name.
func (r *Root) make(ctx context.Context, it item) error {
	const private = 0o600 // until describe has set owner and mode
	at := it.parent.fd
	switch it.hdr.Typeflag {
	case tar.TypeDir:
		return unix.Mkdirat(at, it.base, 0o700)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return r.file(ctx, it)
	case tar.TypeSymlink:
		return unix.Symlinkat(it.hdr.Linkname, at, it.base)
	case tar.TypeLink:
		return r.link(it)
	case tar.TypeFifo:
		return unix.Mknodat(at, it.base, unix.S_IFIFO|private, 0)
	case tar.TypeChar:
		return unix.Mknodat(at, it.base, unix.S_IFCHR|private, device(it.hdr))
	case tar.TypeBlock:
		return unix.Mknodat(at, it.base, unix.S_IFBLK|private, device(it.hdr))
	}
	return invalid(it.hdr.Name, "entries of type %q are not known", it.hdr.Typeflag)
}

// link makes a hard link. The target's last component is not followed.
func (r *Root) link(it item) error {
	target := path.Clean("/" + it.hdr.Linkname)
	dir, base := path.Split(target)
	if base == "" {
		return invalid(it.hdr.Name, "is a hard link to the root")
	}
	// The parent must stay open while the target's directory is.
	at, err := unix.FcntlInt(uintptr(it.parent.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	from, err := r.dirOf(path.Clean(dir), false)
	if err == nil {
		err = unix.Linkat(from.fd, base, at, it.base, 0)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return invalid(it.hdr.Name, "is a hard link to %s, which is not there", quote(it.hdr.Linkname))
	}
	return err
}

// checkHeader refuses numbers the kernel would cut off in silence.
func checkHeader(hdr *tar.Header) error {
	const maxID = 1<<32 - 2 // the last one means "leave as it is" to chown
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return invalid(hdr.Name, "owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	isDevice := hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock
	if isDevice && (hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20) { // the kernel's dev_t
		return invalid(hdr.Name, "device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
	}
	return nil
}

func device(hdr *tar.Header) int {
	return int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
}

func lstat(dirfd int, name string) (exists, isDir bool, err error) {
	var st unix.Stat_t
	switch err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case nil:
		return true, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	case unix.ENOENT:
		return false, false, nil
	default:
		return false, false, err
	}
}

// quote shows a name from an archive, which may be hostile and long.
func quote(name string) string {
	const most = 200
	if len(name) > most {
		name = name[:most] + "…"
	}
	return strconv.Quote(name)
}

// dirAge is when a directory was last read and written, by its archive.
type dirAge struct{ access, modify time.Time }
