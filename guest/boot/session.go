package boot

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/dayfly/dayfly/guest/wire"
)

// Sessions is the guest's end of the conversation with the host, over whatever
// byte stream it is given: streams to the agent's port go to one http.Handler,
// others to the loopback interface. Its methods may be called at the same time.
type Sessions struct {
	streams *streams
	http    *http.Server
}

// NewSessions starts to serve handler; Close ends it.
func NewSessions(handler http.Handler) *Sessions {
	s := &Sessions{streams: newStreams(), http: &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}}
	go func() { _ = s.http.Serve(s.streams) }()
	return s
}

// Close ends all streams.
func (s *Sessions) Close() error { return s.http.Close() }

// Serve says hello on conn, which may wait for the host to be there, and serves
// streams until the host hangs up. It closes conn.
func (s *Sessions) Serve(conn io.ReadWriteCloser, hello wire.Hello) error {
	line, err := json.Marshal(hello)
	if err != nil {
		return err
	}
	// The newline in front ends whatever a broken session left on the line.
	if _, err := fmt.Fprintf(conn, "\n%s\n", line); err != nil {
		return err
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // the channel reports a hang-up by itself
	cfg.StreamOpenTimeout = 0
	cfg.LogOutput = io.Discard
	mux, err := yamux.Server(conn, cfg)
	if err != nil {
		return err
	}
	defer mux.Close()
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			return nil // the host hung up
		}
		go s.streams.route(st)
	}
}

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
	whole := make(chan bool, 2)
	go func() { whole <- pipe(up, c) == nil }()
	go func() { whole <- pipe(c, up) == nil }()
	if <-whole {
		<-whole // one direction ended well: let the other finish
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
