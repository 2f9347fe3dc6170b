package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// portName is what the host calls the virtio-serial port; vmm.PortName.
const portName = "dayfly.agent"

// Serve answers the host over the channel until ctx ends: one session at a
// time, and a new one whenever the host returns. Streams to the agent's port go
// to handler, others to the guest's loopback.
//
// That the host hung up is not always seen: it may have returned before this
// program ran, or the machine may be a copy of one that had another host. So
// every session begins with a hail, which ends the one before.
func (s *System) Serve(ctx context.Context, handler http.Handler) error {
	sessions := NewSessions(handler)
	defer sessions.Close()
	s.sessions.Store(sessions)
	if channelIsVsock() {
		return s.serveVsock(ctx, sessions)
	}
	port, err := s.openPort(ctx)
	if err != nil {
		return err
	}
	defer port.Close()
	for ctx.Err() == nil {
		if err := port.SetDeadline(time.Time{}); err != nil {
			return err
		}
		if err := sessions.Serve(link{port}, s.hello); err != nil {
			return fmt.Errorf("channel: %w", err)
		}
	}
	return ctx.Err()
}

// openPort waits for the virtio-serial port to appear and opens it.
func (s *System) openPort(ctx context.Context) (port *os.File, err error) {
	const class = "/sys/class/virtio-ports"
	find := func() bool {
		names, _ := readNames(class) // not there yet: nothing in it
		for _, n := range names {
			b, _ := os.ReadFile(class + "/" + n + "/name")
			if strings.TrimSpace(string(b)) == portName {
				port, err = os.OpenFile("/dev/"+n, os.O_RDWR, 0)
				return !errors.Is(err, os.ErrNotExist)
			}
		}
		return false
	}
	if err := s.uevents.wait(ctx, "virtio port "+portName, find); err != nil {
		return nil, err
	}
	return port, err
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (s *System) hello() wire.Hello {
	return wire.Hello{
		Dayfly: wire.ProtocolVersion,
		Agent:  s.version,
		Init:   s.inited.Load(),
	}
}

const bootIDFile = "/proc/sys/kernel/random/boot_id"

func bootID() string {
	b, _, _ := readSmall(bootIDFile)
	return strings.TrimSpace(b)
}

// link is the port as one session sees it: closing it ends reads and writes but
// leaves the device open, since closing that would be a hang-up of ours.
type link struct{ *os.File }

func (l link) Close() error { return l.SetDeadline(time.Unix(1, 0)) }

// Read returns io.EOF only if the host is gone for good: the kernel tells of a
// hang-up late, when the next connection may stand already, and what it says in
// between must not end that one.
func (l link) Read(p []byte) (int, error) {
	for {
		n, err := l.File.Read(p)
		if !errors.Is(err, io.EOF) || l.isHungUp() {
			return n, err
		}
	}
}

// How often and after which time a hang-up is looked at again.
const (
	hangUpLooks = 10
	hangUpPause = 5 * time.Millisecond
)

func (l link) isHungUp() bool {
	tick := time.NewTicker(hangUpPause)
	defer tick.Stop()
	for range hangUpLooks {
		<-tick.C
		if !l.hasHangUp() {
			return false
		}
	}
	return true
}

func (l link) hasHangUp() bool {
	raw, err := l.SyscallConn()
	if err != nil {
		return true
	}
	p := []unix.PollFd{{Events: unix.POLLIN}}
	err = raw.Control(func(fd uintptr) {
		p[0].Fd = int32(fd)
		_, _ = unix.Poll(p, 0) // does not wait, so nothing interrupts it
	})
	return err != nil || p[0].Revents&unix.POLLHUP != 0
}
