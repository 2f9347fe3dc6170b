package boot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// portName is what the host calls the virtio-serial port; vmm.PortName.
const portName = "dayfly.agent"

// Serve answers the host over the channel until ctx ends: one hello and one
// session at a time, and a new one each time the host hangs up and returns.
// Streams to the agent's port go to handler, others to the guest's loopback.
func (s *System) Serve(ctx context.Context, handler http.Handler) error {
	port, err := s.openPort(ctx)
	if err != nil {
		return err
	}
	defer port.Close()
	sessions := NewSessions(handler)
	defer sessions.Close()
	for ctx.Err() == nil {
		if err := s.session(port, sessions); err != nil {
			return fmt.Errorf("channel: %w", err)
		}
	}
	return ctx.Err()
}

// openPort waits for the virtio-serial port to appear and opens it.
func (s *System) openPort(ctx context.Context) (*os.File, error) {
	var dev string
	find := func() bool {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			if strings.TrimSpace(string(b)) == portName {
				dev = "/dev/" + filepath.Base(filepath.Dir(n))
				_, err := os.Stat(dev)
				return err == nil
			}
		}
		return false
	}
	if err := s.uevents.wait(ctx, "virtio port "+portName, find); err != nil {
		return nil, err
	}
	return os.OpenFile(dev, os.O_RDWR, 0)
}

// session serves the host until it hangs up, and throws away what it had sent
// before that.
func (s *System) session(port *os.File, sessions *Sessions) error {
	if err := sessions.Serve(link{port}, s.hello()); err != nil {
		return err
	}
	return drain(port)
}

func (s *System) hello() wire.Hello {
	s.mu.Lock()
	inited := s.done != nil
	s.mu.Unlock()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return wire.Hello{
		Dayfly: wire.ProtocolVersion,
		Agent:  s.version,
		Boot:   strings.TrimSpace(string(boot)),
		Uptime: uptime(),
		Init:   inited,
	}
}

func uptime() float64 {
	b, _ := os.ReadFile("/proc/uptime")
	first, _, _ := strings.Cut(string(b), " ")
	sec, _ := strconv.ParseFloat(first, 64)
	return sec * 1e3
}

// drain reads until the host has hung up: what it sent before is not for the
// next session.
func drain(port *os.File) error {
	_ = port.SetReadDeadline(time.Time{})
	_, err := io.Copy(io.Discard, port)
	return err
}

// link is the port as one session sees it: closing it ends reads but leaves the
// device open, since closing that would be a hang-up of ours.
type link struct{ *os.File }

func (l link) Close() error { return l.SetReadDeadline(time.Unix(1, 0)) }
