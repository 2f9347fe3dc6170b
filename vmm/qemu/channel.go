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

// The sockets in a machine's directory.
const (
	agentSocket   = "agent.sock"
	monitorSocket = "monitor.sock" // only of an orphan
)

// endpoint is the host's side of them: of the guest's port, and of the monitor
// where that is one.
type endpoint struct {
	dir *os.File // so that a long path does not matter: a socket's has 107 bytes

	mu    sync.Mutex
	gone  bool // dir is closed: its number may be another directory's
	inUse bool
	open  net.Conn // the connection, once it stands
}

// openEndpoint makes the host's side, without the socket.
func openEndpoint(dir string) (*endpoint, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &endpoint{dir: d}, nil
}

// listen makes a socket that only its owner may connect to, and returns the
// listening end, which is QEMU's. A socket that is there is what an owner left
// that was killed.
func (e *endpoint) listen(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	l := os.NewFile(uintptr(fd), name)
	if err := unix.Unlinkat(int(e.dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, joinClose(fmt.Errorf("%s: %w", name, err), l)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: e.path(name)}); err != nil {
		return nil, joinClose(fmt.Errorf("%s: %w", name, err), l)
	}
	// Until it listens nobody gets through.
	err = unix.Fchmodat(int(e.dir.Fd()), name, 0o600, 0)
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		_ = unix.Unlinkat(int(e.dir.Fd()), name, 0)
		return nil, joinClose(fmt.Errorf("%s: %w", name, err), l)
	}
	return l, nil
}

// joinClose closes what err makes useless. The first error is the one that counts.
func joinClose(err error, files ...*os.File) error {
	for _, f := range files {
		_ = f.Close()
	}
	return err
}

func (e *endpoint) path(name string) string {
	return filepath.Join("/proc/self/fd", fmt.Sprint(e.dir.Fd()), name)
}

// remove takes the sockets away. Connections that stand are not affected.
func (e *endpoint) remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil
	}
	var errs []error
	for _, name := range []string{agentSocket, monitorSocket} {
		if err := unix.Unlinkat(int(e.dir.Fd()), name, 0); !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	e.close()
	return errors.Join(errs...)
}

// leave lets go of the sockets, which stay, and hangs up: another owner's
// connection would wait for that.
func (e *endpoint) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open != nil {
		_ = e.open.Close()
	}
	if !e.gone {
		e.close()
	}
}

// close is for who holds mu.
func (e *endpoint) close() {
	e.gone = true
	_ = e.dir.Close()
}

// dial connects to the port. The guest may not notice that another connection
// stood before: its kernel is told, but its process sees only what holds when it
// runs (wait_port_readable in drivers/char/virtio_console.c). What is said over
// the port must begin in a way that makes up for that.
func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	if err := e.claim(); err != nil {
		return nil, err
	}
	c, err := e.connect(ctx, agentSocket)
	if err != nil {
		e.release()
		return nil, fmt.Errorf("channel: %w", err)
	}
	return &channel{Conn: c, release: sync.OnceFunc(e.release)}, nil
}

// connect does not wait: the listening socket has room.
func (e *endpoint) connect(ctx context.Context, name string) (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, net.ErrClosed
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", e.path(name))
	if err == nil && name == agentSocket {
		e.open = c
	}
	return c, err
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
	e.inUse, e.open = false, nil
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
