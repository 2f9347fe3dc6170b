package vmmtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// tap is a TAP device of the host's and a way to send and hear frames on its
// side of it, which is where a network would be.
type tap struct {
	t    *testing.T
	name string
	mac  net.HardwareAddr
	fd   int // a packet socket
}

// tapMark begins the names of the suite's TAPs, which go on with the process's id.
const tapMark = "dfy"

var taps atomic.Int64

// newTAP makes a TAP that goes with the test. Those of a test binary that was
// killed go with the next one's first.
func (s Setup) newTAP(t *testing.T) *tap {
	t.Helper()
	needs.TAP(t)
	p := &tap{t: t, name: fmt.Sprintf("%s%x-%x", tapMark, os.Getpid(), taps.Add(1)), fd: -1}
	err := s.within(func() error {
		if err := sweepTAPs(); err != nil {
			return err
		}
		if err := persist(p.name, true); err != nil {
			return err
		}
		return p.open()
	})
	t.Cleanup(func() {
		unix.Close(p.fd)
		if err := s.within(func() error { return persist(p.name, false) }); err != nil {
			t.Errorf("remove a TAP device: %v", err)
		}
	})
	if err != nil {
		t.Fatalf("make a TAP device: %v", err)
	}
	return p
}

// TAP makes a TAP device that goes with the test, in this process's network
// namespace, and returns its name.
func TAP(t *testing.T) string {
	t.Helper()
	return Setup{}.newTAP(t).name
}

// persist makes a TAP that stays, or has it go.
func persist(name string, stay bool) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return err
	}
	how := 0
	if stay {
		how = 1
	}
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, how)
}

// sweepTAPs removes what processes that are gone have left.
func sweepTAPs() error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range all {
		of, _, _ := strings.Cut(strings.TrimPrefix(i.Name, tapMark), "-")
		pid, err := strconv.ParseInt(of, 16, 32)
		if err != nil || !strings.HasPrefix(i.Name, tapMark) {
			continue
		}
		if _, err := os.Stat(filepath.Join("/proc", strconv.FormatInt(pid, 10))); errors.Is(err, os.ErrNotExist) {
			_ = persist(i.Name, false) // another process may have done it
		}
	}
	return nil
}

// open takes the device up and opens a socket that hears the suite's frames on it.
func (p *tap) open() (err error) {
	if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	r, err := unix.NewIfreq(p.name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(p.fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(p.fd, unix.SIOCSIFFLAGS, r); err != nil {
		return err
	}
	dev, err := net.InterfaceByName(p.name)
	if err != nil {
		return err
	}
	p.mac = dev.HardwareAddr
	return unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: etherType, Ifindex: dev.Index})
}

const etherType = script.EtherType>>8 | script.EtherType&0xff<<8 // as it is on the wire

// meets sends a frame to a guest that listens and waits for the answer. It asks
// again: until both ends of a device have seen each other, frames are lost.
func (p *tap) meets(mac, text string) {
	p.t.Helper()
	if !p.asks(mac, text, deadline) {
		p.t.Fatalf("nobody at %s has answered on %s", mac, p.name)
	}
}

// asks reports whether a guest answers within the limit.
func (p *tap) asks(mac, text string, limit time.Duration) bool {
	p.t.Helper()
	to, err := net.ParseMAC(mac)
	if err != nil {
		p.t.Fatal(err)
	}
	const again = 50 * time.Millisecond
	for until := time.Now().Add(limit); time.Now().Before(until); {
		// The device drops what it cannot carry.
		_, _ = unix.Write(p.fd, script.Frame(to, p.mac, text))
		for once := time.Now().Add(again); time.Now().Before(once); {
			if p.hears(to, script.Answer+text, time.Until(once)) {
				return true
			}
		}
	}
	return false
}

// floods sends so many frames at once, and waits until each is answered.
func (p *tap) floods(mac string, count int) {
	p.t.Helper()
	to, err := net.ParseMAC(mac)
	if err != nil {
		p.t.Fatal(err)
	}
	text := func(i int) string { return fmt.Sprintf("frame %d", i) }
	for i := range count {
		if _, err := unix.Write(p.fd, script.Frame(to, p.mac, text(i))); err != nil {
			p.t.Fatalf("send a frame: %v", err)
		}
	}
	until := time.Now().Add(deadline)
	for i := 0; i < count; {
		if time.Now().After(until) {
			p.t.Fatalf("%d of %d frames are answered", i, count)
		}
		if p.hears(to, script.Answer+text(i), time.Until(until)) { // they come in order
			i++
		}
	}
}

// hears reports whether the next frame is that text from that address.
func (p *tap) hears(mac net.HardwareAddr, text string, limit time.Duration) bool {
	poll := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(limit.Milliseconds())+1); err != nil || n == 0 {
		return false
	}
	b := make([]byte, 1<<16)
	n, err := unix.Read(p.fd, b)
	if err != nil {
		return false
	}
	to, from, said, ok := script.ParseFrame(b[:n])
	return ok && bytes.Equal(to, p.mac) && bytes.Equal(from, mac) && said == text
}

// free fails the test if a machine has the device.
func (s Setup) free(t *testing.T, p *tap) {
	t.Helper()
	err := s.within(func() error {
		f, err := vmm.OpenTAP(p.name)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		t.Errorf("the TAP device is not free: %v", err)
	}
}

// NewNamespace makes a network namespace that goes with the test, or what lives in
// it.
func NewNamespace(t testing.TB) *os.File {
	t.Helper()
	var ns *os.File
	err := aside(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// within calls do in the network namespace that has the suite's TAPs.
func (s Setup) within(do func() error) error {
	if s.Network == nil {
		return do()
	}
	return aside(func() error {
		if err := unix.Setns(int(s.Network.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// aside calls do on a thread that ends with it, and is not the process's first,
// by which others see where the process is.
func aside(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- do()
			return // without letting go of the thread, which the runtime then ends
		}
		defer runtime.UnlockOSThread()
		result <- aside(do)
	}()
	return <-result
}
