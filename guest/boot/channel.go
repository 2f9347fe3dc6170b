package boot

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/yamux"

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
	streams := newStreams()
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(streams) }()
	defer srv.Close()
	for ctx.Err() == nil {
		if err := s.session(port, streams); err != nil {
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

// session says hello, which waits for the host to be there, and serves streams
// until the host hangs up.
func (s *System) session(port *os.File, streams *streams) error {
	if err := s.hello(port); err != nil {
		return err
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // the channel reports a hang-up by itself
	cfg.LogOutput = io.Discard
	mux, err := yamux.Server(link{port}, cfg)
	if err != nil {
		return err
	}
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			break
		}
		go streams.route(st)
	}
	_ = mux.Close()
	return drain(port)
}

func (s *System) hello(w io.Writer) error {
	s.mu.Lock()
	inited := s.done != nil
	s.mu.Unlock()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	line, err := json.Marshal(wire.Hello{
		Dayfly: wire.ProtocolVersion,
		Agent:  s.version,
		Boot:   strings.TrimSpace(string(boot)),
		Uptime: uptime(),
		Init:   inited,
	})
	if err != nil {
		return err
	}
	// The newline in front ends whatever a broken session left on the line.
	_, err = fmt.Fprintf(w, "\n%s\n", line)
	return err
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

// streams hands the streams of all sessions to one HTTP server.
type streams struct {
	ch   chan net.Conn
	done chan struct{}
}

func newStreams() *streams {
	return &streams{ch: make(chan net.Conn), done: make(chan struct{})}
}

func (l *streams) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *streams) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *streams) Addr() net.Addr { return &net.UnixAddr{Name: portName, Net: "virtio"} }

// route reads a stream's preamble and joins it to the port it names.
func (l *streams) route(c net.Conn) {
	var pre [4]byte
	if _, err := io.ReadFull(c, pre[:]); err != nil {
		c.Close()
		return
	}
	version, port := binary.BigEndian.Uint16(pre[:2]), binary.BigEndian.Uint16(pre[2:])
	switch {
	case version != wire.ProtocolVersion:
		_, _ = c.Write([]byte{wire.PreambleBad})
		c.Close()
	case port == wire.AgentPort:
		_, _ = c.Write([]byte{wire.PreambleOK})
		select {
		case l.ch <- c:
		case <-l.done:
			c.Close()
		}
	default:
		forward(c, port)
	}
}

// forward joins a stream to a port on the guest's loopback interface.
func forward(c net.Conn, port uint16) {
	defer c.Close()
	var d net.Dialer
	up, err := d.Dial("tcp", net.JoinHostPort("localhost", strconv.Itoa(int(port))))
	if err != nil {
		_, _ = c.Write([]byte{wire.PreambleRefused})
		return
	}
	defer up.Close()
	if _, err := c.Write([]byte{wire.PreambleOK}); err != nil {
		return
	}
	errs := make(chan error, 2)
	go func() { errs <- pipe(up, c) }()
	go func() { errs <- pipe(c, up) }()
	if err := <-errs; err == nil {
		<-errs // one direction ended well: let the other finish
	}
}

// pipe copies until src ends, and passes that end on to dst.
func pipe(dst, src net.Conn) error {
	_, err := io.Copy(dst, src)
	if hc, ok := dst.(interface{ CloseWrite() error }); ok {
		return errors.Join(err, hc.CloseWrite())
	}
	return errors.Join(err, dst.Close())
}
