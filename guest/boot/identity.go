package boot

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	binary.NativeEndian.PutUint32(buf[0:], uint32(len(in.Entropy)*8))
	binary.NativeEndian.PutUint32(buf[4:], uint32(len(in.Entropy)))
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
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return writeNames(lowerDir+"/etc", upperDir+"/etc", name)
}

// writeNames puts the files that name a machine into the layer the overlay will
// have on top, which is several times cheaper than writing through the overlay.
// What a stopped workspace has there already is its own and stays.
func writeNames(lower, upper, name string) error {
	mode := os.FileMode(0o755)
	if st, err := os.Lstat(lower); err == nil {
		if !st.IsDir() {
			return nil // a link somewhere else: an image that names itself
		}
		mode = st.Mode().Perm()
	}
	if err := os.Mkdir(upper, mode); err != nil && !os.IsExist(err) {
		return err
	}
	machine := make([]byte, 16)
	_, _ = rand.Read(machine)
	for _, f := range []struct{ name, content string }{
		{"hostname", name + "\n"},
		{"hosts", "127.0.0.1\tlocalhost " + name + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
		{"machine-id", hex.EncodeToString(machine) + "\n"},
	} {
		if err := writeNew(filepath.Join(upper, f.name), f.content); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes a file for all to read unless there is something already.
func writeNew(path, content string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // the world reads these
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
