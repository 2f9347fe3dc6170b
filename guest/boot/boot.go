// Package boot is the life of pid 1 in a workspace's virtual machine: from the
// kernel's hand-over to the last unmount.
//
//	Prepare ──► Serve: hello, sessions … ──► Init (once) ──► … ──► Poweroff
//	 mounts       one channel to the host      identity, disk,
//	 modules                                   root, processes may start
//
// It knows devices, file systems and the channel to the host; what is served
// over that channel is an http.Handler of its caller's. Always true: until Init
// has returned without error no process of a user's runs; the disk key is in
// this program's memory only while Init uses it; a System that cannot go on
// says why on the kernel console, which the host reads.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// System is the virtual machine this process is pid 1 of. Its methods may be
// called at the same time.
type System struct {
	version string
	uevents *uevents

	fork     Fork
	sessions atomic.Pointer[Sessions] // set by Serve
	inited   atomic.Bool
	groups   cgroups

	mu   sync.Mutex // held over all that the host alone may ask, so that one comes after the other
	done *wire.InitReply
	disk *os.File      // the top of the private disk, out of sight once the root is entered
	boot *os.File      // what covers the kernel's boot id; nil until a copy needed its own
	seen time.Duration // the monotonic clock when it was last looked at

	resting bool // the disk stands still until it gets another key
}

// Fork starts a process by calling fork, and returns what waits for its end.
type Fork func(fork func() (pid int, err error)) (wait func() syscall.WaitStatus, err error)

// earlyMounts are what the kernel and this program need before anything else.
var earlyMounts = []mount{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
}

// Prepare makes the kernel usable: mounts and modules. It must run first, once.
// fork starts hooks.
func Prepare(version string, fork Fork) (*System, error) {
	for _, m := range earlyMounts {
		if err := m.do(); err != nil {
			return nil, err
		}
	}
	// Opened before any driver is loaded, so that no device is missed.
	ev, err := listenUevents()
	if err != nil {
		return nil, err
	}
	if err := loadModules("/modules.load"); err != nil {
		return nil, err
	}
	if err := protectSelf(); err != nil {
		return nil, err
	}
	return &System{version: version, uevents: ev, fork: fork, groups: cgroups{top: -1, work: -1}}, nil
}

// protectSelf keeps the kernel from choosing pid 1 when memory runs out.
func protectSelf() error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
}

// loadModules inserts the modules listed in the file, in its order. A kernel
// with everything built in has an empty list or none.
func loadModules(list string) error {
	names, err := os.ReadFile(list)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("module list: %w", err)
	}
	for path := range strings.FieldsSeq(string(names)) {
		if !hasUse(filepath.Base(path)) {
			continue // loading what has no device takes time, too
		}
		if err := loadModule(path); err != nil {
			return fmt.Errorf("module %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// hasUse reports whether a module may have a device here, once those before it
// are loaded.
func hasUse(module string) bool {
	switch {
	case strings.Contains(module, "vsock"):
		return channelIsVsock()
	case module == "virtio_net.ko", strings.Contains(module, "failover"): // which it needs
		return hasNIC("/sys")
	}
	return true
}

// hasNIC reports whether one of the virtio devices is a network device.
func hasNIC(sys string) bool {
	const network = "0x0001" // include/uapi/linux/virtio_ids.h
	kinds, _ := filepath.Glob(sys + "/bus/virtio/devices/*/device")
	return slices.ContainsFunc(kinds, func(path string) bool {
		kind, err := os.ReadFile(path)
		return err == nil && strings.TrimSpace(string(kind)) == network
	})
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		// Loaded already, or for hardware this machine lacks, such as AES
		// instructions: the generic implementation serves.
		return nil
	}
	return err
}

// Die prints why pid 1 gives up where the host can read it, and ends it, upon
// which the kernel panics and the VMM reports the machine as ended.
func Die(err error) {
	if k, e := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); e == nil {
		fmt.Fprintf(k, "<0>dayfly: %v\n", err)
		k.Close()
	}
	os.Exit(1)
}

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// do mounts, and makes the directory where it is missing.
func (m mount) do() error {
	if err := unix.Mkdir(m.target, 0o755); errors.Is(err, unix.ENOENT) {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}
