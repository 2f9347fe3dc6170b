package host

import (
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Space is what a file system has.
type Space struct {
	Free  int64 // bytes that we may write
	Files int64 // that may still be made; -1: as many as fit
	Magic int64 // its type, of linux/magic.h
}

// measure asks the kernel.
func measure(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, err
	}
	s := Space{Free: int64(st.Bavail) * st.Bsize, Files: int64(st.Ffree), Magic: st.Type}
	if st.Files == 0 { // Btrfs makes them as it goes
		s.Files = -1
	}
	return s, nil
}

func (h Host) space() (Space, error) {
	if h.Space != nil {
		return h.Space(h.Dir)
	}
	return measure(h.Dir)
}

const (
	leastSpace = 2 << 30  // one image and a few workspaces
	noSpace    = 64 << 20 // a start writes more than this, sooner or later
	leastFiles = 1000     // a workspace has some 10 files, an image 3
)

// disk asks for room for images and disks. Disks are sparse: what is written
// counts, not what was promised.
func (h Host) disk() dayfly.Check {
	s, err := h.space()
	if err != nil {
		return broken(finding{detail: "the state directory: " + err.Error(), remedy: "choose another with --state"})
	}
	f := finding{
		detail: fmt.Sprintf("%d MiB free at %s", s.Free>>20, filepath.Clean(h.Dir)),
		remedy: "dayfly system prune and dayfly image rm free space; or use --state on a larger file system",
	}
	switch {
	case s.Free < noSpace:
		f.cost = "starts fail, and workspaces find their disks full"
		return broken(f)
	case s.Free < leastSpace:
		f.cost = "room for few images and workspaces"
		return lacking(f)
	case s.Files >= 0 && s.Files < leastFiles:
		f.detail += ", but room for only " + strconv.FormatInt(s.Files, 10) + " more files"
		f.cost = "a workspace has some 10 files"
		return lacking(f)
	}
	return good("%s", f.detail)
}

// kind is what is known of a file system.
type kind struct {
	name string
	cost string // empty: fit for state
}

const remote = "each write waits for the network, and locks between hosts are not what one owner at a time is built on"

var kinds = map[int64]kind{
	unix.EXT4_SUPER_MAGIC:      {name: "ext4"},
	unix.XFS_SUPER_MAGIC:       {name: "XFS"},
	unix.BTRFS_SUPER_MAGIC:     {name: "Btrfs"},
	unix.F2FS_SUPER_MAGIC:      {name: "F2FS"},
	0x2fc12fc1:                 {name: "ZFS"},
	unix.TMPFS_MAGIC:           {"tmpfs", "disks of workspaces take the memory that they need, and are gone with the host's next boot"},
	unix.RAMFS_MAGIC:           {"ramfs", "disks of workspaces take the memory that they need, and are gone with the host's next boot"},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", "the first write to a file of a lower layer copies it whole, and state goes with the container"},
	unix.NFS_SUPER_MAGIC:       {"NFS", remote},
	unix.SMB_SUPER_MAGIC:       {"SMB", remote},
	unix.CIFS_SUPER_MAGIC:      {"CIFS", remote},
	unix.SMB2_SUPER_MAGIC:      {"SMB", remote},
	unix.CEPH_SUPER_MAGIC:      {"Ceph", remote},
	unix.V9FS_MAGIC:            {"9p", remote},
	unix.FUSE_SUPER_MAGIC:      {"FUSE", "each read and write goes through another process; whether locks and hard links hold is up to it"},
}

// filesystem asks for one of this host's own disks. State needs hard links,
// flock, holes and renames that survive a crash.
func (h Host) filesystem() dayfly.Check {
	s, err := h.space()
	if err != nil {
		return broken(finding{detail: "the state directory: " + err.Error(), remedy: "choose another with --state"})
	}
	const remedy = "use --state on ext4, XFS or Btrfs of a local disk"
	k, known := kinds[s.Magic]
	switch {
	case !known:
		return lacking(finding{detail: fmt.Sprintf("type 0x%x", s.Magic), cost: "nobody has tried state on it", remedy: remedy})
	case k.cost != "":
		return lacking(finding{detail: k.name, cost: k.cost, remedy: remedy})
	}
	return good("%s", k.name)
}
