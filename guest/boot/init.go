package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// steps is what makes an empty VM a workspace, in order. Each row's name is a
// sub-stage of the timeline, and an error carries it.
var steps = []struct {
	name string
	do   func(*System, context.Context, *wire.Init) error
}{
	{"clock", (*System).setClock},
	{"entropy", (*System).addEntropy},
	{"crypt", (*System).openDisk},
	{"disk", (*System).mountDisk},
	{"root", (*System).mountRoot},
	{"identity", (*System).setIdentity},
	{"overlay", (*System).mountOverlay},
	{"enter", (*System).enterRoot},
}

// Init carries out in once. Repeated, it renews only what may be renewed: the
// clock and the kernel's entropy. An error leaves the VM unusable: the caller
// reports it and the host throws the machine away.
func (s *System) Init(ctx context.Context, in wire.Init) (wire.InitReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer clearKey(&in)
	if s.done != nil {
		return *s.done, errors.Join(s.setClock(ctx, &in), s.addEntropy(ctx, &in))
	}
	reply := wire.InitReply{Kernel: release()}
	began := time.Now()
	for _, st := range steps {
		at := time.Since(began)
		if err := st.do(s, ctx, &in); err != nil {
			return reply, fmt.Errorf("%s: %w", st.name, err)
		}
		reply.Timeline = append(reply.Timeline, dayfly.Stage{Name: st.name, At: ms(at), Took: ms(time.Since(began) - at)})
	}
	s.done = &reply
	return reply, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

func clearKey(in *wire.Init) {
	if in.Root != nil {
		clear(in.Root.DiskKey)
	}
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Where the parts of a workspace's root are put together, before this program
// enters the result and these names go out of sight.
const (
	diskDir  = "/disk"
	upperDir = diskDir + "/upper"
	workDir  = diskDir + "/work"
	lowerDir = "/lower"
	rootDir  = "/root"
	cryptDev = "dayfly"
)

func (s *System) openDisk(ctx context.Context, in *wire.Init) error {
	if in.Root == nil {
		return errors.New("the host named no root")
	}
	for _, dev := range []string{in.Root.Image, in.Root.Disk} {
		exists := func() bool { _, err := os.Stat(dev); return err == nil }
		if err := s.uevents.wait(ctx, dev, exists); err != nil {
			return err
		}
	}
	if len(in.Root.DiskKey) == 0 {
		return nil
	}
	dev, err := openCrypt(cryptDev, in.Root.Disk, in.Root.DiskKey)
	in.Root.Disk = dev
	return err
}

// mountDisk mounts the private disk. noinit_itable: the kernel would otherwise
// write out every inode table of an empty file system in the background, which
// would fill the sparse disk on the host.
func (s *System) mountDisk(_ context.Context, in *wire.Init) error {
	if err := (mount{in.Root.Disk, diskDir, "ext4", unix.MS_NOATIME, "noinit_itable"}).do(); err != nil {
		return err
	}
	for _, d := range []string{upperDir, workDir} {
		if err := os.Mkdir(d, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
	}
	var err error
	s.disk, err = os.Open(diskDir)
	return err
}

func (s *System) mountRoot(_ context.Context, in *wire.Init) error {
	fs, err := fsType(in.Root.Image)
	if err != nil {
		return err
	}
	return mount{in.Root.Image, lowerDir, fs, unix.MS_RDONLY | unix.MS_NOATIME, ""}.do()
}

// mountOverlay lays the disk over the image. redirect_dir lets a directory of
// the image be renamed, as on any other file system.
func (s *System) mountOverlay(context.Context, *wire.Init) error {
	const opts = "lowerdir=" + lowerDir + ",upperdir=" + upperDir + ",workdir=" + workDir + ",redirect_dir=on"
	return mount{"overlay", rootDir, "overlay", unix.MS_NOATIME, opts}.do()
}

// lateMounts are made inside the root, after /dev, /proc and /sys were moved there.
var lateMounts = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

// enterRoot makes the workspace's root this program's own, so that every path
// it handles from now on is one its clients know.
func (s *System) enterRoot(_ context.Context, in *wire.Init) error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, rootDir+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	_ = os.RemoveAll("/modules") // memory of the initramfs; gone with it otherwise
	if err := os.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
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
	return makeWorkdir(in.DefaultWorkdir)
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
		if err := os.Symlink(l[0], l[1]); err != nil && !os.IsExist(err) {
			return err
		}
	}
	// devtmpfs makes its own ptmx, which belongs to no devpts instance of ours.
	if err := os.Remove("/dev/ptmx"); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink("pts/ptmx", "/dev/ptmx")
}

// hostName returns name where it can be one, else a stand-in made from the id.
func hostName(name, id string) string {
	const longest = 63
	ok := name != "" && len(name) <= longest && !strings.HasPrefix(name, "-")
	for _, r := range name {
		ok = ok && (r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if ok {
		return name
	}
	return id
}
