package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

const agentSocket = "agent.sock"

// endpoint is the host's side of the guest's port: a socket in the machine's
// directory.
type endpoint struct {
	dir *os.File // so that a long path does not matter: a socket's has 107 bytes

	mu    sync.Mutex
	gone  bool // dir is closed: its number may be another directory's
	inUse bool
}

// listen makes the socket and returns the listening end, which is QEMU's. A
// socket that is there is what an owner left that was killed.
func listen(dir string) (*endpoint, *os.File, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	e := &endpoint{dir: d}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, joinClose(fmt.Errorf("agent socket: %w", err), d)
	}
	l := os.NewFile(uintptr(fd), agentSocket)
	if err := unix.Unlinkat(int(d.Fd()), agentSocket, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, nil, joinClose(fmt.Errorf("agent socket: %w", err), l, d)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: e.path()}); err != nil {
		return nil, nil, joinClose(fmt.Errorf("agent socket: %w", err), l, d)
	}
	if err := unix.Listen(fd, 1); err != nil {
		_ = e.remove()
		return nil, nil, joinClose(fmt.Errorf("agent socket: %w", err), l)
	}
	return e, l, nil
}

// joinClose closes what err makes useless. The first error is the one that counts.
func joinClose(err error, files ...*os.File) error {
	for _, f := range files {
		_ = f.Close()
	}
	return err
}

func (e *endpoint) path() string {
	return filepath.Join("/proc/self/fd", fmt.Sprint(e.dir.Fd()), agentSocket)
}

// remove takes the socket away. Connections that stand are not affected.
func (e *endpoint) remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	err := unix.Unlinkat(int(e.dir.Fd()), agentSocket, 0)
	_ = e.dir.Close()
	return err
}

// dial connects to the port. The guest may not notice that another connection
// stood before: its kernel is told, but its process sees only what holds when it
// runs (wait_port_readable in drivers/char/virtio_console.c). What is said over
// the port must begin in a way that makes up for that.
func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	if err := e.claim(); err != nil {
		return nil, err
	}
	c, err := e.connect(ctx)
	if err != nil {
		e.release()
		return nil, fmt.Errorf("channel: %w", err)
	}
	return &channel{Conn: c, release: sync.OnceFunc(e.release)}, nil
}

// connect does not wait: the listening socket has room.
func (e *endpoint) connect(ctx context.Context) (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, net.ErrClosed
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", e.path())
}

// claim takes the one connection there is.
func (e *endpoint) claim() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inUse {
		return dayfly.Errorf(dayfly.Conflict, "the guest's channel is open already: close that connection first")
	}
	e.inUse = true
	return nil
}

func (e *endpoint) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inUse = false
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
