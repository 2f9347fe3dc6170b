//go:build linux

// Command guest is pid 1 of the conformance suite's virtual machines: it loads
// the virtio modules named in /modules.load, finds the machine's channel and
// serves package script on it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

func main() {
	err := run()
	_ = machine{}.Console(fmt.Sprintf("conformance guest: %v", err))
	os.Exit(1) // pid 1 that exits is a kernel panic
}

func run() error {
	for _, m := range []struct{ kind, dir string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"},
	} {
		if err := errors.Join(os.MkdirAll(m.dir, 0o755), unix.Mount(m.kind, m.dir, m.kind, 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// Else the kernel drops most of what flood writes.
	if err := os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0o600); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if onVsock() {
		return serveVsock()
	}
	name, err := findPort(vmm.PortName)
	if err != nil {
		return err
	}
	return serve(filepath.Join("/dev", name))
}

// loadModules leaves out what the conversation has no use for: emulated, each
// module costs 20 ms. Those of network devices wait for Listen.
func loadModules() error {
	return load(func(name string) bool {
		return strings.HasPrefix(name, "virtio_") && name != netModule || strings.Contains(name, "vsock") && onVsock()
	})
}

const netModule = "virtio_net.ko"

// load inserts the listed modules that are wanted, in their order. A kernel that
// has them built in has no list.
func load(wanted func(name string) bool) error {
	list, err := os.ReadFile("/modules.load")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(list)) {
		if !wanted(filepath.Base(path)) {
			continue
		}
		if err := loadModule(path); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// findPort waits for the virtio port of that name and returns its device.
func findPort(name string) (string, error) {
	const deadline = 5 * time.Second // device probing goes on after modules are loaded
	for began := time.Now(); time.Since(began) < deadline; time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, f := range found {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
				return filepath.Base(filepath.Dir(f)), nil
			}
		}
	}
	return "", fmt.Errorf("no virtio port %s", name)
}

// onVsock reports whether the machine's channel is vsock.
func onVsock() bool {
	return slices.Contains(strings.Fields(machine{}.Cmdline()), "dayfly.channel=vsock")
}

// serveVsock answers each of the host's connections.
func serveVsock() error {
	const port = 1024
	l, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return err
	}
	if err := unix.Listen(l, unix.SOMAXCONN); err != nil {
		return err
	}
	var hangUps atomic.Int64
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		go func() {
			defer unix.Close(fd)
			_ = script.Serve(connection(fd), machine{}, int(hangUps.Load()))
			hangUps.Add(1)
		}()
	}
}

// serve answers one connection after another. The host's hang-up is the end of
// file; its next connection is announced by SIGIO alone, as poll does not wait
// for it.
func serve(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGIO)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETOWN, os.Getpid()); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDWR|unix.O_ASYNC); err != nil {
		return err
	}
	for hangUps := 0; ; hangUps++ {
		for !connected(fd) {
			<-changed
		}
		if err := script.Serve(connection(fd), machine{}, hangUps); err != nil && !errors.Is(err, unix.EPIPE) {
			return err
		}
	}
}

func connected(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&unix.POLLHUP == 0
}

// connection reads and writes with plain blocking calls: the runtime's poller would
// wake up all the time while the host is not connected.
type connection int

func (p connection) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(p), b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (p connection) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(int(p), b[done:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}

// machine is a virtual machine seen from inside.
type machine struct{}

func (machine) Drive(i int) (script.Drive, error) {
	name := fmt.Sprintf("/dev/vd%c", 'a'+i)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		f, err = os.Open(name)
	}
	return f, err
}

// Console writes at a level that "quiet" lets through.
func (machine) Console(line string) error {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("<2>" + line + "\n") // without the newline the kernel holds the line back
	return err
}

func (machine) CPUs() int { return runtime.NumCPU() }

func (machine) Cmdline() string {
	b, _ := os.ReadFile("/proc/cmdline")
	return strings.TrimSpace(string(b))
}

func (machine) Uptime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano()), err
}

// kept is in the guest's RAM like everything of this program's.
var kept string

func (machine) Keep(text string) error { kept = text; return nil }

func (machine) Kept() (string, error) { return kept, nil }

func (machine) Reboot() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func (machine) Panic() error {
	os.Exit(3)
	return nil
}
