package boot

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// setClock sets the wall clock: the machine has no clock chip to read.
func (s *System) setClock(_ context.Context, in *wire.Init) error {
	if in.Timestamp == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, in.Timestamp)
	if err != nil {
		return err
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

// Ioctls of /dev/urandom: include/uapi/linux/random.h. RNDRESEEDCRNG makes the
// kernel use what was added at once.
const (
	rndAddEntropy = 0x40085203
	rndReseedCRNG = 0x5207
)

// addEntropy credits the host's random bytes to the kernel and reseeds it.
func (s *System) addEntropy(_ context.Context, in *wire.Init) error {
	if len(in.Entropy) == 0 {
		return nil
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 8, 8+len(in.Entropy))
	binary.NativeEndian.PutUint32(buf[0:], uint32(len(in.Entropy)*8)) //nolint:gosec // bounded by the size of an Init
	binary.NativeEndian.PutUint32(buf[4:], uint32(len(in.Entropy)))   //nolint:gosec // likewise
	buf = append(buf, in.Entropy...)
	defer clear(buf)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return fmt.Errorf("credit: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed: %w", errno)
	}
	return nil
}

// setIdentity gives the workspace its names and brings up the loopback
// interface, the only one of an air-gapped workspace.
func (s *System) setIdentity(_ context.Context, in *wire.Init) error {
	name := hostName(in.Hostname, in.ID)
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	machine := make([]byte, 16)
	_, _ = rand.Read(machine)
	hosts := "127.0.0.1\tlocalhost " + name + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	return errors.Join(
		writeFile("/etc/hostname", name+"\n"),
		writeFile("/etc/hosts", hosts),
		writeFile("/etc/machine-id", hex.EncodeToString(machine)+"\n"),
		loopbackUp(),
	)
}

// writeFile replaces a file of the image with one of the workspace's own. The
// image may have put a symbolic link in its place: that is replaced too, so
// that nothing is written through it.
func writeFile(path, content string) error {
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644) //nolint:gosec // the world reads these
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
