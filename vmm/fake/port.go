package fake

import (
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// port is the guest's virtio port as a listener: each connection of the host's
// is one Accept. While it is paused nothing passes on the guest's side.
type port struct {
	shutting chan struct{} // closed when the machine ends
	shut     func()
	waiting  chan net.Conn // the guest's ends that it has not accepted

	mu      sync.Mutex
	running chan struct{}     // closed while the guest runs
	host    *hostEnd          // the connection there is, or nil
	ends    map[net.Conn]bool // the guest's ends that are open
}

func newPort() *port {
	p := &port{
		shutting: make(chan struct{}),
		waiting:  make(chan net.Conn, 64), // hang-ups the guest has yet to see
		running:  make(chan struct{}),
		ends:     map[net.Conn]bool{},
	}
	close(p.running)
	p.shut = sync.OnceFunc(p.hangUp)
	return p
}

// hangUp ends every connection.
func (p *port) hangUp() {
	close(p.shutting)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.ends {
		_ = c.Close()
	}
}

// Accept returns the host's next connection. The one before must have ended.
func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.waiting:
		return &gated{c, p}, nil
	case <-p.shutting:
		return nil, net.ErrClosed
	}
}

// Close does nothing: a port cannot be taken away from inside.
func (p *port) Close() error { return nil }

// Addr is the port's name.
func (p *port) Addr() net.Addr { return &net.UnixAddr{Name: vmm.PortName, Net: "virtio"} }

// dial makes a connection through the kernel, whose buffers hold what the guest
// has yet to read.
func (p *port) dial() (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host != nil {
		return nil, dayfly.Errorf(dayfly.Conflict, "the guest's channel is open already: close that connection first")
	}
	host, guest, err := connPair()
	if err != nil {
		return nil, err
	}
	select {
	case <-p.shutting:
	default:
		select {
		case p.waiting <- guest:
			p.host, p.ends[guest] = &hostEnd{host, p}, true
			return p.host, nil
		default:
		}
	}
	_, _ = host.Close(), guest.Close()
	return nil, dayfly.Errorf(dayfly.Conflict, "the machine is ending")
}

// drop ends the connection there is, as the host's death does.
func (p *port) drop() {
	p.mu.Lock()
	host := p.host
	p.mu.Unlock()
	if host != nil {
		_ = host.Close()
	}
}

// reset ends the connection there is, which its holder has yet to close.
func (p *port) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host == nil {
		return
	}
	if c, ok := p.host.Conn.(*net.UnixConn); ok {
		_, _ = c.CloseRead(), c.CloseWrite()
	}
}

func (p *port) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.running:
		p.running = make(chan struct{})
	default: // paused already
	}
}

func (p *port) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.running:
	default:
		close(p.running)
	}
}

func (p *port) paused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.running:
		return false
	default:
		return true
	}
}

// wait returns when the guest may run.
func (p *port) wait() {
	p.mu.Lock()
	running := p.running
	p.mu.Unlock()
	select {
	case <-running:
	case <-p.shutting:
	}
}

// gated is the guest's end of a connection.
type gated struct {
	net.Conn
	p *port
}

func (g *gated) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	g.p.wait()
	return n, err
}

func (g *gated) Write(b []byte) (int, error) {
	g.p.wait()
	return g.Conn.Write(b)
}

func (g *gated) Close() error {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	delete(g.p.ends, g.Conn)
	return g.Conn.Close()
}

// hostEnd makes room for the next connection when it is closed.
type hostEnd struct {
	net.Conn
	p *port
}

func (h *hostEnd) Close() error {
	h.p.mu.Lock()
	defer h.p.mu.Unlock()
	if h.p.host == h {
		h.p.host = nil
	}
	return h.Conn.Close()
}

func connPair() (host, guest net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), vmm.PortName)
		c, connErr := net.FileConn(f) // a copy
		_ = f.Close()
		ends[i], err = c, connErr
		if connErr != nil {
			break
		}
	}
	if err != nil {
		if ends[0] != nil {
			_ = ends[0].Close()
		} else {
			_ = unix.Close(fds[1])
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}
