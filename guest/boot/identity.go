package boot

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

func (r *root) setClock(_ context.Context, in *wire.Init) error {
	r.sys.look()
	if in.Timestamp == "" {
		return nil
	}
	now, err := setClock(in.Timestamp, time.Since(r.arrived))
	r.confirm(wire.StepClock, now)
	return err
}

// setClock sets the wall clock, as the machine has no clock chip to read, to a
// time and what has passed since it came, and returns what it says then.
func setClock(timestamp string, since time.Duration) (string, error) {
	t, err := time.Parse(time.RFC3339Nano, timestamp)
	if err != nil {
		return "", err
	}
	tv := unix.NsecToTimeval(t.Add(since).UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return "", err
	}
	return time.Now().UTC().Format(time.RFC3339Nano), nil
}

// Clock moves the wall clock, if it is to be moved, and says what it is then.
func (s *System) Clock(_ context.Context, in wire.Clock) (wire.ClockReply, error) {
	if in.Forward != 0 {
		// The kernel wants the smaller part to be no less than 0.
		forward := unix.NsecToTimespec(in.Forward)
		by := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Sec: forward.Sec, Usec: forward.Nsec}}
		if _, err := unix.Adjtimex(&by); err != nil {
			return wire.ClockReply{}, err
		}
	}
	return wire.ClockReply{Timestamp: time.Now().UTC().Format(time.RFC3339Nano)}, nil
}

// look reads the monotonic clock, and says whether it has gone back since it
// was read last.
func (s *System) look() bool {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail: the clock is always there
	now := time.Duration(ts.Nano())
	back := now < s.seen
	s.seen = now
	return back
}

// Ioctls of /dev/urandom: include/uapi/linux/random.h. RNDRESEEDCRNG makes the
// kernel use what was added at once.
const (
	rndGetEntCnt  = 0x80045200
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

func (r *root) addEntropy(_ context.Context, in *wire.Init) error {
	if len(in.Entropy) == 0 {
		return nil
	}
	added, err := addEntropy(in.Entropy)
	r.confirm(wire.StepEntropy, added)
	return err
}

// addEntropy credits the host's random bytes to the kernel and reseeds it. It
// returns how many there were, once the kernel says that its pool is full.
func addEntropy(bytes []byte) (string, error) {
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8, 8+len(bytes))
	binary.NativeEndian.PutUint32(buf[0:], uint32(len(bytes)*8))
	binary.NativeEndian.PutUint32(buf[4:], uint32(len(bytes)))
	buf = append(buf, bytes...)
	defer clear(buf)
	if err := ioctl(fd, rndAddEntropy, unsafe.Pointer(&buf[0])); err != nil {
		return "", fmt.Errorf("credit: %w", err)
	}
	if err := ioctl(fd, rndReseedCRNG, nil); err != nil {
		return "", fmt.Errorf("reseed: %w", err)
	}
	var bits int32
	if err := ioctl(fd, rndGetEntCnt, unsafe.Pointer(&bits)); err != nil {
		return "", fmt.Errorf("count: %w", err)
	}
	if want := int32(8 * min(len(bytes), wire.MinEntropy)); bits < want {
		return "", fmt.Errorf("the kernel's pool holds %d bits, not %d", bits, want)
	}
	return strconv.Itoa(len(bytes)) + " bytes", nil
}

// setIdentity gives the workspace its names and brings up the loopback
// interface, the only one of an air-gapped workspace.
func (r *root) setIdentity(_ context.Context, in *wire.Init) error {
	name := wire.HostName(in.Hostname, in.ID)
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := loopback(unix.IFF_UP | unix.IFF_RUNNING); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if in.Former != "" {
		if err := forgetNames(upperDir+"/etc", in.Former); err != nil {
			return err
		}
	}
	if err := forgetStrays(upperDir+"/etc", in.Strays); err != nil {
		return err
	}
	machine, err := writeNames(lowerDir+"/etc", upperDir+"/etc", name)
	if err != nil {
		return err
	}
	u := uname()
	r.kernel = unix.ByteSliceToString(u.Release[:])
	r.confirm(wire.StepHostname, unix.ByteSliceToString(u.Nodename[:]))
	r.confirm(wire.StepMachineID, machine)
	return nil
}

func uname() (u unix.Utsname) {
	_ = unix.Uname(&u) // cannot fail: the address is good
	return u
}

func hostname() string {
	u := uname()
	return unix.ByteSliceToString(u.Nodename[:])
}

// What stands for a machine id where the image has no such file of its own.
const (
	noMachineID   = "none"
	linkMachineID = "link"
)

// writeNames puts the files that name a machine into the layer the overlay will
// have on top, which is several times cheaper than writing through the overlay.
// What a stopped workspace has there already is its own and stays. It returns
// the machine id.
func writeNames(lower, upper, name string) (string, error) {
	mode := uint32(0o755)
	var st unix.Stat_t
	if unix.Lstat(lower, &st) == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return linkMachineID, nil // a link somewhere else: an image that names itself
		}
		mode = st.Mode & 0o777
	}
	if err := unix.Mkdir(upper, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", err
	}
	for _, f := range names(name) {
		if _, err := writeNew(upper+"/"+f.name, f.content); err != nil {
			return "", err
		}
	}
	id := newMachineID()
	made, err := writeNew(upper+"/machine-id", id+"\n")
	if err != nil || made {
		return id, err
	}
	return readMachineID(upper + "/machine-id")
}

// forgetNames removes from a disk that was another's what names that one, so that
// it is written anew. What the other has put there of its own stays.
func forgetNames(upper, former string) error {
	for _, f := range names(former) {
		if text, ok, err := readSmall(upper + "/" + f.name); err != nil || !ok || text != f.content {
			continue
		}
		if err := unix.Unlink(upper + "/" + f.name); err != nil {
			return err
		}
	}
	if _, ok, err := readSmall(upper + "/machine-id"); err != nil || !ok {
		return err
	}
	return unix.Unlink(upper + "/machine-id")
}

// forgetStrays forgets the names of whoever the disk still is named after.
func forgetStrays(upper string, strays []string) error {
	if len(strays) == 0 {
		return nil
	}
	text, ok, err := readSmall(upper + "/hostname")
	if err != nil || !ok {
		return err
	}
	for _, name := range strays {
		if text == name+"\n" {
			return forgetNames(upper, name)
		}
	}
	return nil
}

// namedFile is a file in /etc that holds the host name.
type namedFile struct{ name, content string }

func names(host string) []namedFile {
	return []namedFile{
		{"hostname", host + "\n"},
		{"hosts", "127.0.0.1\tlocalhost " + host + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
	}
}

func newMachineID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// readMachineID returns the id in a file, or what stands for it.
func readMachineID(path string) (string, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return noMachineID, nil
	case err != nil:
		return "", fmt.Errorf("%s: %w", path, err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return linkMachineID, nil
	}
	text, _, err := readSmall(path)
	if id := strings.TrimSpace(text); id != "" || err != nil {
		return id[:min(len(id), 64)], err
	}
	return noMachineID, nil
}

// writeNew writes a file for all to read unless there is something already, and
// reads it back. It says whether it did.
func writeNew(path, content string) (bool, error) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	back := make([]byte, len(content))
	if _, err = unix.Write(fd, []byte(content)); err == nil {
		_, err = unix.Pread(fd, back, 0)
	}
	if err == nil && string(back) != content {
		err = unix.EIO
	}
	if err != nil {
		return true, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

func loopback(flags uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
