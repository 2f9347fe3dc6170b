package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// root is a workspace's root while it is put together: for good, or to rehearse.
type root struct {
	sys       *System
	crypt     string    // name of the device-mapper device
	rehearsal bool      // entered by one thread alone, and undone
	arrived   time.Time // when it was asked for
	disk      *os.File  // the top of the private disk
	kernel    string    // release
	confirmed []wire.Confirmation
}

func (r *root) confirm(name, value string) {
	r.confirmed = append(r.confirmed, wire.Confirmation{Name: name, Value: value})
}

// Where the parts of a workspace's root are put together, before this program
// enters the result and these names go out of sight.
const (
	diskDir  = "/disk"
	upperDir = diskDir + "/upper"
	workDir  = diskDir + "/work"
	lowerDir = "/lower"
	rootDir  = "/root"

	cryptDev     = "dayfly"
	rehearsalDev = "rehearsal"
)

// runDir is where this program keeps what the workspace's processes may read.
const runDir = "/run/dayfly"

func (r *root) openDisk(ctx context.Context, in *wire.Init) error {
	if in.Root == nil {
		return errors.New("the host named no root")
	}
	for _, dev := range []string{in.Root.Image, in.Root.Disk} {
		exists := func() bool { return unix.Access(dev, unix.F_OK) == nil }
		if err := r.sys.uevents.wait(ctx, dev, exists); err != nil {
			return err
		}
	}
	if len(in.Root.DiskKey) == 0 {
		return nil
	}
	dev, err := openCrypt(r.crypt, in.Root)
	in.Root.Disk = dev
	return err
}

// mountDisk mounts the private disk. noinit_itable: the kernel would otherwise
// write out every inode table of an empty file system in the background, which
// would fill the sparse disk on the host. no_prefetch_block_bitmaps: nor does it
// read all of the others; without either there is no thread for that, which every
// copy of a template would have in the middle of its start.
func (r *root) mountDisk(_ context.Context, in *wire.Init) error {
	if err := (mount{in.Root.Disk, diskDir, "ext4", unix.MS_NOATIME, "noinit_itable,no_prefetch_block_bitmaps"}).do(); err != nil {
		return err
	}
	for _, d := range []string{upperDir, workDir} {
		if err := unix.Mkdir(d, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	var err error
	if r.disk, err = os.Open(diskDir); err != nil {
		return err
	}
	return growFS(in.Root, int(r.disk.Fd()))
}

// growFS makes a mounted ext4 as large as its device, which may have grown since
// the last start. The kernel does it while it is mounted, and safely so if it is
// cut short (EXT4_IOC_RESIZE_FS in fs/ext4/ioctl.c).
func growFS(root *wire.Root, mounted int) error {
	const resize = 0x40086610 // _IOW('f', 16, __u64)
	size := uint64(max(0, root.DiskSize))
	if size == 0 {
		var err error
		if size, err = blockSize(root.Disk); err != nil {
			return fmt.Errorf("size of %s: %w", root.Disk, err)
		}
	}
	has, block, err := ext4Size(root.Disk)
	if err != nil {
		return fmt.Errorf("size of the file system: %w", err)
	}
	want := size / block
	if has >= want {
		return nil
	}
	if err := ioctl(mounted, resize, unsafe.Pointer(&want)); err != nil {
		return fmt.Errorf("grow the file system from %d to %d blocks: %w", has, want, err)
	}
	return nil
}

func (r *root) mountRoot(_ context.Context, in *wire.Init) error {
	fs, err := fsType(in.Root.Image)
	if err != nil {
		return err
	}
	return mount{in.Root.Image, lowerDir, fs, unix.MS_RDONLY | unix.MS_NOATIME, ""}.do()
}

// mountOverlay lays the disk over the image. redirect_dir lets a directory of
// the image be renamed, as on any other file system.
func (r *root) mountOverlay(context.Context, *wire.Init) error {
	const opts = "lowerdir=" + lowerDir + ",upperdir=" + upperDir + ",workdir=" + workDir + ",redirect_dir=on"
	return mount{"overlay", rootDir, "overlay", unix.MS_NOATIME, opts}.do()
}

// lateMounts are made inside the root, after /dev, /proc and /sys were moved there.
var lateMounts = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
}

var cgroupMount = mount{"cgroup2", cgroupDir, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}

// enterRoot makes the workspace's root this program's own, so that every path
// it handles from now on is one its clients know.
func (r *root) enterRoot(_ context.Context, in *wire.Init) error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, rootDir+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := r.chroot(); err != nil {
		return err
	}
	for _, m := range lateMounts {
		if err := m.do(); err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	if err := linkDevices(); err != nil {
		return err
	}
	if err := unix.Mkdir(runDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", runDir, err)
	}
	if err := r.openGroups(); err != nil {
		return err
	}
	return makeWorkdir(in.DefaultWorkdir)
}

// chroot enters rootDir. A rehearsal does not cover the / it goes back to.
func (r *root) chroot() error {
	if !r.rehearsal {
		_ = os.RemoveAll("/modules") // memory of the initramfs; gone with it otherwise
	}
	if err := unix.Chdir(rootDir); err != nil {
		return err
	}
	if !r.rehearsal {
		if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move root: %w", err)
		}
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return unix.Chdir("/")
}

// openGroups makes the cgroup of the workspace's processes. A kernel without
// cgroup2 goes without, and cannot freeze them.
func (r *root) openGroups() error {
	err := cgroupMount.do()
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err == nil {
		err = r.sys.groups.open()
	}
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// makeWorkdir makes the default directory where the image lacks it, as image
// builders rely on. Commands that name another one find out for themselves.
func makeWorkdir(dir string) error {
	if !filepath.IsAbs(dir) {
		return nil
	}
	err := os.MkdirAll(dir, 0o755)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EEXIST) {
		return nil // something else is there: said when a process is to start in it
	}
	return err
}

// linkDevices adds the names in /dev that devtmpfs leaves to user space.
func linkDevices() error {
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := unix.Symlink(l[0], l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	// devtmpfs makes its own ptmx, which belongs to no devpts instance of ours.
	if err := unix.Unlink("/dev/ptmx"); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return unix.Symlink("pts/ptmx", "/dev/ptmx")
}
