package needs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The environment that make test sets; nothing else of it is read here.
const (
	envMode  = "DAYFLY_NEEDS"      // "strict": a lack fails the test
	envCache = "DAYFLY_CACHE"      // where packaging/setup.sh keeps downloads
	envState = "DAYFLY_TEST_STATE" // a state directory with a kernel and the image base
	envKVM   = "DAYFLY_TEST_KVM"   // "proved": dayfly doctor has run a guest on KVM here
)

const (
	defaultCache = "/var/cache/dayfly"
	minQEMU      = 10 // older ones hang where a saved machine is restored
)

const setupTest = "run packaging/setup.sh test"

var (
	root        = &capability{name: "root", remedy: "run the tests as root", probe: probeRoot}
	mount       = &capability{name: "mount", remedy: "run as root with CAP_SYS_ADMIN", probe: probeMount}
	fuse        = &capability{name: "fuse", remedy: "run as root on a kernel with FUSE", probe: device("/dev/fuse")}
	loop        = &capability{name: "loop", remedy: "run as root where loop devices can be made", probe: probeLoop}
	tap         = &capability{name: "tap", remedy: "run as root, with the module tun", probe: probeTAP}
	e2fsprogs   = &capability{name: "e2fsprogs", remedy: setupTest, probe: tool("e2fsck", "/usr/sbin/e2fsck")}
	xfs         = &capability{name: "xfs", remedy: setupTest, probe: fileSystem("xfs")}
	btrfs       = &capability{name: "btrfs", remedy: setupTest, probe: fileSystem("btrfs")}
	mmdebstrap  = &capability{name: "mmdebstrap", remedy: setupTest, probe: tool("mmdebstrap")}
	python      = &capability{name: "python", remedy: setupTest, probe: tool("python3")}
	curl        = &capability{name: "curl", remedy: setupTest, probe: tool("curl")}
	postgresql  = &capability{name: "postgres", remedy: setupTest, probe: probePostgres}
	qemu        = &capability{name: "qemu", remedy: setupTest, probe: probeQEMU}
	firecracker = &capability{name: "firecracker", remedy: "run dayfly setup firecracker", probe: probeFirecracker}
	kvm         = &capability{name: "kvm", remedy: "use a machine whose KVM runs a stock guest kernel, and make test", probe: probeKVM}
	vhostVsock  = &capability{name: "vhost-vsock", remedy: "run modprobe vhost_vsock on a kernel that has it", probe: device("/dev/vhost-vsock")}
	kernelDeb   = &capability{name: "kernel-package", remedy: setupTest, probe: probeKernelDeb}
	kernelSrc   = &capability{name: "kernel-source", remedy: "run packaging/setup.sh kernel", probe: probeKernelSource}
	state       = &capability{name: "state", remedy: "run make test, which prepares one", probe: probeState}

	capabilities = []*capability{root, mount, fuse, loop, tap, e2fsprogs, xfs, btrfs, mmdebstrap, python, curl, postgresql, qemu, firecracker, kvm, vhostVsock, kernelDeb, kernelSrc, jail, cgroup, state}
)

// Root needs the test to run as root.
func Root(t testing.TB) { t.Helper(); root.require(t) }

// Mount needs the right to mount file systems, such as a small tmpfs.
func Mount(t testing.TB) { t.Helper(); mount.require(t) }

// FUSE needs file systems that this process serves itself.
func FUSE(t testing.TB) { t.Helper(); fuse.require(t) }

// Loop needs loop devices and the right to mount them.
func Loop(t testing.TB) { t.Helper(); loop.require(t) }

// TAP needs the right to make TAP devices, and network namespaces to put them in.
func TAP(t testing.TB) { t.Helper(); tap.require(t) }

// E2fsprogs needs mke2fs, e2fsck and debugfs. It returns the path of e2fsck;
// the others lie beside it.
func E2fsprogs(t testing.TB) string { t.Helper(); return e2fsprogs.require(t) }

// XFS needs mkfs.xfs, whose path it returns, and a kernel that mounts XFS.
func XFS(t testing.TB) string { t.Helper(); return xfs.require(t) }

// Btrfs needs mkfs.btrfs, whose path it returns, and a kernel that mounts Btrfs.
func Btrfs(t testing.TB) string { t.Helper(); return btrfs.require(t) }

// Mmdebstrap needs mmdebstrap, which makes the image base, and returns its path.
func Mmdebstrap(t testing.TB) string { t.Helper(); return mmdebstrap.require(t) }

// Python needs a Python 3 on this host and returns its path.
func Python(t testing.TB) string { t.Helper(); return python.require(t) }

// Curl needs curl, and returns its path.
func Curl(t testing.TB) string { t.Helper(); return curl.require(t) }

// Postgres needs PostgreSQL's server, and returns the directory of its programs.
// The package test/postgres starts one.
func Postgres(t testing.TB) string { t.Helper(); return postgresql.require(t) }

// QEMU needs a QEMU new enough to run guests and returns its path.
func QEMU(t testing.TB) string { t.Helper(); return qemu.require(t) }

// Firecracker needs a Firecracker new enough to restore machines and returns its
// path. It runs nothing without KVM.
func Firecracker(t testing.TB) string { t.Helper(); return firecracker.require(t) }

// KVM needs a KVM that was proved by running a guest, which a device that
// opens is not.
func KVM(t testing.TB) { t.Helper(); kvm.require(t) }

// VhostVsock needs vsock sockets between this host and its guests.
func VhostVsock(t testing.TB) { t.Helper(); vhostVsock.require(t) }

// KernelDeb needs Debian's cloud kernel package, and returns the newest one's path.
func KernelDeb(t testing.TB) string { t.Helper(); return kernelDeb.require(t) }

// KernelSource needs the source that tuned kernels are compiled from, and what
// configures it. It returns the tarball's path.
func KernelSource(t testing.TB) string { t.Helper(); return kernelSrc.require(t) }

// State needs a prepared state directory, with a kernel and the image base,
// and returns its path. All tests share it: add to it only what you take away.
func State(t testing.TB) string { t.Helper(); return state.require(t) }

func strict() bool { return os.Getenv(envMode) == "strict" }

func probeRoot() (string, error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("running as user %d", os.Geteuid())
	}
	return "", nil
}

func probeMount() (string, error) {
	dir, err := os.MkdirTemp("", "dayfly-needs-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(dir) }()
	if err := unix.Mount("dayfly", dir, "tmpfs", 0, "size=64k"); err != nil {
		return "", fmt.Errorf("mounting a tmpfs: %w", err)
	}
	return "", unix.Unmount(dir, unix.MNT_DETACH)
}

func probeLoop() (string, error) {
	if _, err := probeMount(); err != nil {
		return "", err
	}
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
		return "", fmt.Errorf("no free loop device: %w", err)
	}
	return "", nil
}

// probeTAP makes a device that goes with its descriptor.
func probeTAP() (string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("dfyneeds%d")
	if err != nil {
		return "", err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return "", fmt.Errorf("making a TAP device: %w", err)
	}
	return "", nil
}

// tool looks for the first of several names of a program.
func tool(names ...string) func() (string, error) {
	return func() (string, error) {
		var errs []error
		for _, name := range names {
			path, err := exec.LookPath(name)
			if err == nil {
				return path, nil
			}
			errs = append(errs, err)
		}
		return "", errors.Join(errs...)
	}
}

// fileSystem looks for the maker of a kind of file system that the kernel knows.
func fileSystem(kind string) func() (string, error) {
	return func() (string, error) {
		path, err := tool("mkfs."+kind, "/usr/sbin/mkfs."+kind)()
		if err != nil {
			return "", err
		}
		known, err := os.ReadFile("/proc/filesystems")
		if err == nil && !strings.Contains(string(known), "\t"+kind+"\n") {
			err = fmt.Errorf("the kernel does not know %s", kind)
		}
		return path, err
	}
}

func device(path string) func() (string, error) {
	return func() (string, error) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return "", err
		}
		return path, f.Close()
	}
}

var qemuVersion = regexp.MustCompile(`QEMU emulator version (\d+)\.`)

func probeQEMU() (string, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(context.Background(), path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	m := qemuVersion.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s --version says %q", path, out)
	}
	if v, err := strconv.Atoi(string(m[1])); err != nil || v < minQEMU {
		return "", fmt.Errorf("%s is version %s, not %d", path, m[1], minQEMU)
	}
	return path, nil
}

var firecrackerVersion = regexp.MustCompile(`Firecracker v(\d+)\.(\d+)\.(\d+)`)

func probeFirecracker() (string, error) {
	path, err := exec.LookPath("firecracker")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(context.Background(), path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	m := firecrackerVersion.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s --version says %q", path, out)
	}
	var v [3]int
	for i := range v {
		v[i], _ = strconv.Atoi(string(m[i+1])) // the pattern holds digits alone
	}
	if slices.Compare(v[:], []int{1, 16, 1}) < 0 { // a machine restored by an older one hears nothing
		return "", fmt.Errorf("%s is version %s, not 1.16.1", path, m[0])
	}
	return path, nil
}

func probeKVM() (string, error) {
	if os.Getenv(envKVM) != "proved" {
		return "", errors.New("dayfly doctor has not run a guest on KVM here")
	}
	return "", nil
}

func probeKernelDeb() (string, error) {
	dir := os.Getenv(envCache)
	if dir == "" {
		dir = defaultCache
	}
	debs, err := filepath.Glob(filepath.Join(dir, "linux-image-*-cloud-*.deb"))
	if err != nil || len(debs) == 0 {
		return "", fmt.Errorf("no linux-image-*-cloud-*.deb in %s", dir)
	}
	return slices.MaxFunc(debs, byAge), nil
}

// byAge orders files by time: version numbers do not sort as text.
func byAge(a, b string) int {
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	if errA != nil || errB != nil {
		return 0
	}
	return sa.ModTime().Compare(sb.ModTime())
}

// probePostgres looks where Debian has it, outside of PATH, and for others in PATH.
func probePostgres() (string, error) {
	servers, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err == nil && len(servers) > 0 {
		return filepath.Dir(slices.MaxFunc(servers, byAge)), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", errors.New("no postgres in PATH or below /usr/lib/postgresql")
	}
	return filepath.Dir(path), nil
}

func probeState() (string, error) {
	dir := os.Getenv(envState)
	if dir == "" {
		return "", errors.New(envState + " is not set")
	}
	_, err := os.Stat(dir)
	return dir, err
}

func probeKernelSource() (string, error) {
	const source = "/usr/src/linux-source-6.12.tar.xz"
	for _, program := range []string{"gcc", "make", "flex", "bison", "xz"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", err
		}
	}
	_, err := os.Stat(source)
	return source, err
}
