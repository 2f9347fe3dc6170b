package layer

import (
	"archive/tar"
	"errors"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// paxXattr leads the PAX records that carry extended attributes.
const paxXattr = "SCHILY.xattr."

// describe gives what is at the item's place its owner, attributes, mode and
// times, in the only order that works: chown clears set-uid bits and file
// capabilities.
func (r *Root) describe(it item, merged bool) error {
	at, base, hdr := it.parent.fd, it.base, it.hdr
	if hdr.Typeflag == tar.TypeLink {
		// Looking the target up may have replaced the cached parent.
		parent, err := r.dirOf(path.Dir(it.name), false)
		if err != nil {
			return err
		}
		at = parent.fd
	}
	if err := unix.Fchownat(at, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	xattrs, err := r.xattrs(hdr)
	if err != nil {
		return err
	}
	if merged {
		if err := dropXattrs(at, base, xattrs); err != nil {
			return err
		}
	}
	if err := r.setXattrs(at, it, xattrs); err != nil {
		return err
	}
	if err := chmod(at, base, hdr); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir {
		r.times[it.name] = dirAge{hdr.AccessTime, hdr.ModTime} // later entries below would change them
		return nil
	}
	return setTimes(at, base, hdr.AccessTime, hdr.ModTime)
}

func chmod(at int, base string, hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeSymlink {
		return nil
	}
	if hdr.Typeflag == tar.TypeLink { // a hard link to a symbolic link must not be followed
		var st unix.Stat_t
		if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return nil
		}
	}
	return unix.Fchmodat(at, base, uint32(hdr.Mode)&0o7777, 0)
}

// xattrs returns the extended attributes of an entry.
func (r *Root) xattrs(hdr *tar.Header) (map[string]string, error) {
	var found map[string]string
	size := 0
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[name] = value
		size += len(name) + len(value)
	}
	if size > r.limits.XattrBytes {
		return nil, exceeded(hdr.Name, "extended attribute bytes", size, r.limits.XattrBytes)
	}
	return found, nil
}

func (r *Root) setXattrs(at int, it item, xattrs map[string]string) error {
	for name, value := range xattrs {
		err := unix.Lsetxattr(procPath(at, it.base), name, []byte(value), 0)
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOTSUP) && !essential(name):
			// Layers made on other systems carry attributes that mean nothing
			// to Linux, such as com.apple.quarantine.
			r.log.Warn("extended attribute left out", "entry", it.hdr.Name, "attribute", name, "err", err)
		case errors.Is(err, unix.ENOTSUP):
			return dayfly.Errorf(dayfly.Unavailable, "%s: the file system of the image store cannot hold the extended attribute %s: "+
				"put the state directory on ext4, XFS or Btrfs", quote(it.hdr.Name), quote(name))
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG):
			// ext4 says ENOSPC when the one block it has for them is full.
			return exceeded(it.hdr.Name, "extended attribute bytes", len(value), r.limits.XattrBytes)
		default:
			return err
		}
	}
	return nil
}

// essential tells the attributes that a Linux program may rely on.
func essential(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") ||
		name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_")
}

// dropXattrs removes the attributes that are not in keep: a directory that a
// higher layer describes again has that layer's attributes only.
func dropXattrs(at int, base string, keep map[string]string) error {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(procPath(at, base), buf)
	if err != nil {
		return ignore(err, unix.ENOTSUP)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if _, ok := keep[name]; ok || name == "" {
			continue
		}
		if err := unix.Lremovexattr(procPath(at, base), name); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return err
		}
	}
	return nil
}

// procPath names an entry of an open directory for the calls that have no form
// with a descriptor (setxattrat came with Linux 6.13). The directory's link is
// followed, the entry is not.
func procPath(at int, base string) string {
	return "/proc/self/fd/" + strconv.Itoa(at) + "/" + base
}

// setDirTimes sets the times of this layer's directories, now that nothing
// more is put into them.
func (r *Root) setDirTimes() error {
	for name, age := range r.times {
		dir, base := path.Split(name)
		parent, err := r.dirOf(path.Clean(dir), false)
		if err != nil {
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
				continue // a later entry replaced it
			}
			return archiveError(name, err)
		}
		if _, isDir, err := lstat(parent.fd, base); err != nil || !isDir {
			continue
		}
		if err := setTimes(parent.fd, base, age.access, age.modify); err != nil {
			return err
		}
	}
	return nil
}

// maxTime is the last second that mke2fs 1.47.0 copies right: it drops the
// upper bits of a time.
var maxTime = time.Unix(1<<31-1, 0)

func setTimes(at int, base string, access, modify time.Time) error {
	if access.Before(modify) {
		access = modify // the archive may have none
	}
	ts := []unix.Timespec{timespec(access), timespec(modify)}
	return unix.UtimesNanoAt(at, base, ts, unix.AT_SYMLINK_NOFOLLOW)
}

func timespec(t time.Time) unix.Timespec {
	if t.Before(time.Unix(0, 0)) {
		t = time.Unix(0, 0)
	}
	if t.After(maxTime) {
		t = maxTime
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
