package jail

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

// Names of TAP devices in a network namespace of a test's.
const (
	ownTAP   = "own"
	otherTAP = "other" // another user's
)

// tapFlags are how a VMM opens one.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// network makes a network namespace that goes with the test.
func network(t *testing.T) *os.File {
	t.Helper()
	needs.TAP(t)
	var ns *os.File
	err := aside(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// addTAP makes a TAP device of a user's in a network namespace, and returns it open
// if it is to stay so.
func addTAP(t *testing.T, in *os.File, name string, uid int) (f *os.File) {
	t.Helper()
	err := Within(in, func() error {
		fd, err := openTun(name, tapFlags)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, uid); err != nil {
			return err
		}
		return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func openTun(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// useDevice changes a network device by a socket that says nothing of its kind.
func useDevice(name string, request uint, set func(*unix.Ifreq)) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	set(r)
	return unix.IoctlIfreq(s, request, r)
}

func tun(name string, flags uint16) func(victim) error {
	return func(victim) error {
		fd, err := openTun(name, flags)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// reaches are the ways to more of a network than the one TAP device that a jail
// was given, by its name or open.
var reaches = []attempt{
	{"open another's TAP device", tun(otherTAP, tapFlags)},
	{"make a TAP device", tun("new", tapFlags)},
	{"make one by a pattern", tun("new%d", tapFlags)},
	{"make a TUN device", tun("new", unix.IFF_TUN|unix.IFF_NO_PI)},
	{"open what is no TAP device", tun("lo", tapFlags)},
	{"open more queues of its own", tun(ownTAP, tapFlags|unix.IFF_MULTI_QUEUE)},
	{"take a device up", func(victim) error {
		return useDevice("lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP) })
	}},
	{"rename a device", func(victim) error {
		return useDevice(otherTAP, unix.SIOCSIFNAME, func(r *unix.Ifreq) { r.SetUint32(0x78) })
	}},
	{"make a bridge", func(victim) error {
		return useDevice("bridge", unix.SIOCBRADDBR, func(*unix.Ifreq) {})
	}},
	{"open the network namespace of a process of the host", func(v victim) error {
		return open(fmt.Sprintf("/proc/%d/ns/net", v.pid), unix.O_RDONLY)(v)
	}},
	{"make a device for TAPs", func(victim) error {
		return unix.Mknod("/dev/net/another", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200)))
	}},
	{"open a TCP socket", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
	{"open a raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{"open a packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{"open a netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)},
	{"connect to an abstract socket of the host", func(v victim) error { return connect("@" + v.abstract) }},
}

// tryReaches is the probe with a network: its TAP device is the descriptor that it
// is told, or the one that it opens by its name.
func tryReaches(v victim, given int) int {
	fd := given
	if fd == 0 {
		var err error
		if fd, err = openTun(ownTAP, tapFlags); err != nil {
			fmt.Println("it has no TAP device:", err)
			return 1
		}
	}
	for _, e := range reaches {
		if err := e.try(v); err != nil {
			fmt.Printf("refused\t%s\t%v\n", e.name, err)
		} else {
			fmt.Printf("ESCAPED\t%s\n", e.name)
		}
	}
	all, err := os.ReadFile("/proc/self/net/dev")
	fmt.Printf("devices\t%d\t%v\n", strings.Count(string(all), ":"), err)
	// A frame of 14 bytes behind 10 of the device's.
	if _, err := unix.Write(fd, make([]byte, 10+60)); err != nil {
		fmt.Println("it cannot send:", err)
		return 1
	}
	fmt.Println("sent")
	return 0
}

// hasTheTAPAlone starts a probe and checks that it has one TAP device, sees so many
// devices, and reaches nothing else.
func hasTheTAPAlone(t *testing.T, j *Jail, v victim, devices int, given ...*os.File) {
	t.Helper()
	fd := 0
	if len(given) > 0 {
		fd = 3
	}
	out, exit := output(t, j, Command{Args: append([]string{"x", probeMark, "network", strconv.Itoa(fd)}, v.args()[3:]...), Files: given})
	refusals := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "refused\t") {
			refusals++
		}
		if strings.Contains(line, "ESCAPED") {
			t.Error(line)
		}
	}
	if refusals != len(reaches) || !strings.HasSuffix(out, "sent") || !strings.Contains(out, fmt.Sprintf("devices\t%d\t", devices)) {
		t.Errorf("%d of %d ways were refused; it ended with %v and said\n%s", refusals, len(reaches), exit.Err(), out)
	}
}

// received is how many frames a TAP device has had from whoever has it open.
func received(t *testing.T, in *os.File, name string) int {
	t.Helper()
	n := -1
	err := Within(in, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/dev", unix.Gettid()))
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == name+":" {
				n, err = strconv.Atoi(f[2])
			}
		}
		return err
	})
	if err != nil || n < 0 {
		t.Fatalf("no count of frames: %v", err)
	}
	return n
}

func takeUp(t *testing.T, in *os.File, name string) {
	t.Helper()
	err := Within(in, func() error {
		return useDevice(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP) })
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestJailWithANetworkHasItsTAPAlone is what a VMM has that opens its TAP device by
// the name.
func TestJailWithANetworkHasItsTAPAlone(t *testing.T) {
	t.Parallel()
	p, ns, v := openPool(t, testOptions(t)), network(t), newVictim(t)
	j := take(t, p, Spec{Shape: self(t), Network: ns})
	_ = addTAP(t, ns, ownTAP, j.UID()).Close()
	_ = addTAP(t, ns, otherTAP, 0).Close()
	takeUp(t, ns, ownTAP)
	hasTheTAPAlone(t, j, v, 3)
	if n := received(t, ns, ownTAP); n != 1 {
		t.Errorf("%d frames have come", n)
	}
}

// TestJailWithATAPHasThatAlone is what a VMM has that is handed its TAP device: no
// other device is even to be seen.
func TestJailWithATAPHasThatAlone(t *testing.T) {
	t.Parallel()
	p, ns, v := openPool(t, testOptions(t)), network(t), newVictim(t)
	j := take(t, p, Spec{Shape: self(t)})
	own := addTAP(t, ns, ownTAP, 0)
	_ = addTAP(t, ns, otherTAP, 0).Close()
	takeUp(t, ns, ownTAP)
	hasTheTAPAlone(t, j, v, 1, own)
	if n := received(t, ns, ownTAP); n != 1 {
		t.Errorf("%d frames have come", n)
	}
}

// TestWaysToDevicesAreOpenOutside keeps the probe from failing for reasons of its own.
func TestWaysToDevicesAreOpenOutside(t *testing.T) {
	t.Parallel()
	needs.Jail(t)
	ns, v := network(t), newVictim(t)
	_ = addTAP(t, ns, ownTAP, 0).Close()
	_ = addTAP(t, ns, otherTAP, 0).Close()
	for _, e := range reaches {
		switch e.name {
		case "open another's TAP device", "make a TAP device", "make one by a pattern", "make a TUN device", "take a device up", "rename a device",
			"open the network namespace of a process of the host", "open a TCP socket", "open a packet socket":
			err := Within(ns, func() error { return e.try(v) })
			for end := time.Now().Add(time.Minute); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
				// A child of another test, between fork and exec, has the device open still.
				err = Within(ns, func() error { return e.try(v) })
			}
			if err != nil {
				t.Errorf("%s: %v: it proves nothing that a jail refuses it", e.name, err)
			}
		}
	}
}

func TestHostsNetworkIsNoJails(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	ours, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if _, err := p.Take(t.Context(), Spec{Shape: self(t), Network: ours}); dayfly.KindOf(err) != dayfly.Denied {
		t.Errorf("Take = %v", err)
	}
	file, err := os.Open(private(t, "no namespace"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	j := take(t, p, Spec{Shape: self(t), Network: file})
	if _, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "say", "x"}}); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Errorf("Start = %v", err)
	}
}

// TestWithinIsTheCallersAgain looks where this process is, after it was elsewhere.
func TestWithinIsTheCallersAgain(t *testing.T) {
	t.Parallel()
	ns := network(t)
	_ = addTAP(t, ns, "seen", 0).Close()
	if err := Within(ns, func() error { _, err := net.InterfaceByName("seen"); return err }); err != nil {
		t.Error(err)
	}
	if err := Within(nil, func() error { _, err := net.InterfaceByName("seen"); return err }); err == nil {
		t.Error("what is in another namespace is here")
	}
}
