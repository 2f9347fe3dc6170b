package vmm

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// NIC is one virtio network device. What its guest sends is received by a TAP
// device, and the other way round; what is behind that is the caller's.
type NIC struct {
	// TAP is the name of a TAP device that outlives its users (ip tuntap add): the
	// machine takes it, as long as nobody else has it, and leaves it there. It is in
	// the network namespace of this process, or where the Spawner has its machines'.
	TAP string

	// MAC is the guest's address, such as 06:00:0a:00:00:02. A restored guest has
	// the one that it was saved with, whatever this says, until it takes another.
	MAC string

	// Limit bounds its traffic: what the guest receives it reads, and what it
	// sends it writes; an operation is a frame, or some that belong together.
	Limit Limit
}

// checkNICs looks at what the NICs are called, and not for their TAPs: those are
// not where this process is, maybe.
func (c Config) checkNICs() error {
	if n := len(c.NICs); n > MaxNICs || n > 0 && n+len(c.Drives) > MaxDevices {
		return dayfly.Errorf(dayfly.Invalid, "machine has %d network devices and %d drives: use at most %d, and %d devices in all", n, len(c.Drives), MaxNICs, MaxDevices)
	}
	taps, macs := map[string]bool{}, map[string]bool{}
	for i, n := range c.NICs {
		if err := checkTAP(n.TAP); err != nil {
			return err
		}
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(n.MAC) != len("00:00:00:00:00:00") || !strings.Contains(n.MAC, ":") {
			return dayfly.Errorf(dayfly.Invalid, "network device %d has the address %q: use six bytes such as 06:00:0a:00:00:02", i, n.MAC)
		}
		const group = 1
		if mac[0]&group != 0 || strings.Trim(mac.String(), "0:") == "" {
			return dayfly.Errorf(dayfly.Invalid, "network device %d has the address %s, which is no single device's: use one whose first byte is even", i, mac)
		}
		if taps[n.TAP] || macs[mac.String()] {
			return dayfly.Errorf(dayfly.Invalid, "network device %d has the TAP device or the address of another: use each once", i)
		}
		taps[n.TAP], macs[mac.String()] = true, true
		if err := n.Limit.Check(); err != nil {
			return err
		}
	}
	return nil
}

// checkTAP refuses what is no name, or a pattern of which the kernel would make one.
func checkTAP(name string) error {
	bad := func(r rune) bool { return r != '.' && notIDRune(r) }
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.Trim(name, ".") == "" || strings.ContainsFunc(name, bad) {
		return dayfly.Errorf(dayfly.Invalid, "TAP device %q: use 1 to %d letters, digits, dots, - and _", name, unix.IFNAMSIZ-1)
	}
	return nil
}

// TAPHeader is what lies in front of each frame that is read from an open TAP, or
// written to it, in bytes: struct virtio_net_hdr of linux/virtio_net.h.
const TAPHeader = 10

// OpenTAP takes a TAP device, in the network namespace of the calling thread:
// whoever has the file, or a copy, has the device. It makes none: the error is Invalid where
// there is no such TAP device, Conflict where another machine has it, and
// Unavailable where this process may not use it.
func OpenTAP(name string) (*os.File, error) {
	if err := checkTAP(name); err != nil {
		return nil, err
	}
	if err := findTAP(name); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, noTAPs(err)
	}
	if err := attachTAP(fd, name); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil // only now, as one that is not attached cannot be waited for
}

// GiveTAP lets a user open a TAP device by its name, and nobody else but root. Like
// OpenTAP it looks where the calling thread is, and has its errors.
func GiveTAP(name string, uid int) error {
	f, err := OpenTAP(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETOWNER, uid); err != nil {
		return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "the TAP device " + name + " cannot be given to the machine's user: run dayfly as root", Err: err}
	}
	return nil
}

// findTAP keeps the kernel from making a device that is not there.
func findTAP(name string) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return noTAPs(err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(s, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return noTAP(name, err)
	}
	return nil
}

func attachTAP(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return noTAP(name, err)
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, r)
	}
	if err == nil { // the last user may have had another
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, TAPHeader)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return dayfly.Errorf(dayfly.Conflict, "the TAP device %s is in use by another machine: stop that one first", name)
	case errors.Is(err, unix.EPERM):
		return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "this user may not use the TAP device " + name + ": make it with ip tuntap add … user, or run dayfly as root", Err: err}
	case err != nil:
		return noTAP(name, err)
	case r.Uint16()&unix.IFF_PERSIST == 0: // it has been removed, and made again by this
		return noTAP(name, fs.ErrNotExist)
	}
	return nil
}

func noTAP(name string, err error) error {
	return &dayfly.Error{Kind: dayfly.Invalid, Msg: "there is no TAP device " + name + " of one queue: make it with ip tuntap add", Err: err}
}

func noTAPs(err error) error {
	return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "this process cannot use TAP devices: run modprobe tun, and dayfly as root", Err: err}
}
