package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// AgentPort is the vsock port that the guest's agent listens on.
const AgentPort = 1024

// How connections to the guest are tried. Nobody says when its agent begins to
// listen: until then Firecracker hangs up, or keeps the question for a guest
// that has yet to find its device.
const (
	tryAgain = 5 * time.Millisecond
	tryLimit = 250 * time.Millisecond
	maxOK    = len("OK 4294967295\n")
)

// channels is the host's side of the guest's port.
type channels struct {
	home *home

	mu    sync.Mutex
	inUse bool
	open  net.Conn // nil while it is being opened
}

// dial connects to the agent, and waits for it.
func (s *channels) dial(ctx context.Context) (net.Conn, error) {
	if err := s.claim(); err != nil {
		return nil, err
	}
	c, err := s.wait(ctx)
	if err != nil {
		s.release()
		return nil, err
	}
	s.mu.Lock()
	s.open = c
	s.mu.Unlock()
	return &channel{Conn: c, release: sync.OnceFunc(s.release)}, nil
}

// hangUp ends the connection there is. Its holder closes it.
func (s *channels) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.open.(*net.UnixConn); ok {
		_, _ = u.CloseRead(), u.CloseWrite()
	}
}

// wait tries until somebody listens.
func (s *channels) wait(ctx context.Context) (net.Conn, error) {
	again := time.NewTicker(tryAgain)
	defer again.Stop()
	for {
		c, err := s.try(ctx)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("channel: %w: %w", context.Cause(ctx), err)
		case <-again.C:
		}
	}
}

// try asks Firecracker for one connection (docs/vsock.md of Firecracker).
func (s *channels) try(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	c, err := s.home.connect(ctx, vsockSocket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = shake(c, AgentPort)
	if err == nil && !stop() { // its deadline may be about to be set
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

var errNotOK = errors.New("the VMM does not answer the vsock handshake")

// shake says which port is wanted. The answer is read byte by byte: what comes
// after it is the guest's.
func shake(c net.Conn, port int) error {
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return err
	}
	var said strings.Builder
	one := make([]byte, 1)
	for said.Len() < maxOK {
		if _, err := c.Read(one); err != nil {
			return err
		}
		said.WriteByte(one[0])
		if one[0] == '\n' {
			break
		}
	}
	if !strings.HasPrefix(said.String(), "OK ") || !strings.HasSuffix(said.String(), "\n") {
		return errNotOK
	}
	return nil
}

// claim takes the one connection there is.
func (s *channels) claim() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse {
		return dayfly.Errorf(dayfly.Conflict, "the guest's channel is open already: close that connection first")
	}
	s.inUse = true
	return nil
}

func (s *channels) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse, s.open = false, nil
}

// channel is a connection that makes room for the next when it is closed.
type channel struct {
	net.Conn
	release func()
}

// Close hangs up. It may be called more than once.
func (c *channel) Close() error {
	defer c.release()
	return c.Conn.Close()
}
