package boot

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/dayfly/dayfly/guest/wire"
)

// Sessions is the guest's end of the conversation with the host, over whatever
// byte stream it is given: streams to the agent's port go to one http.Handler,
// others to the loopback interface. Serve is for one goroutine, the others may
// be called at the same time.
type Sessions struct {
	streams *streams
	http    *http.Server
	handler http.Handler
	nonce   string // of the last hail; it outlives a call of Serve, as the host's go may
	waiting bool   // that hail ended a session and was not answered yet

	born  time.Time
	heard atomic.Int64 // nanoseconds from then until something last came
}

// NewSessions starts to serve handler; Close ends it.
func NewSessions(handler http.Handler) *Sessions {
	s := &Sessions{streams: newStreams(), handler: handler, born: time.Now(), http: &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}}
	go func() { _ = s.http.Serve(s.streams) }()
	return s
}

// Close ends all streams.
func (s *Sessions) Close() error { return s.http.Close() }

// Drop ends what is left of sessions before the present one, and returns how
// many of their streams have been dropped since it was called last.
func (s *Sessions) Drop() int { return s.streams.drop(true) }

// Heard returns when something of the host's last came.
func (s *Sessions) Heard() time.Time { return s.born.Add(time.Duration(s.heard.Load())) }

// listening is a connection that notes when something comes.
type listening struct {
	io.ReadWriteCloser
	s *Sessions
}

func (l listening) Read(p []byte) (int, error) {
	n, err := l.ReadWriteCloser.Read(p)
	l.s.heard.Store(int64(time.Since(l.s.born)))
	return n, err
}

// Serve waits on conn for the host's hail, answers it, and serves streams until
// the host hangs up or hails anew. It closes conn.
func (s *Sessions) Serve(conn io.ReadWriteCloser, hello func() wire.Hello) error {
	conn = listening{conn, s}
	in := bufio.NewReaderSize(conn, wire.MaxHello)
	if met, err := s.meet(conn, in, hello); !met {
		return errors.Join(err, conn.Close())
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // the channel reports a hang-up by itself
	cfg.StreamOpenTimeout = 0
	cfg.LogOutput = io.Discard
	a := &ahead{ReadWriteCloser: conn, in: in}
	mux, err := yamux.Server(a, cfg)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.streams.next()
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			break // the host hung up, or is another one
		}
		go s.streams.route(st)
	}
	_ = mux.Close() // it is closed: this waits until nothing reads or writes any more
	s.streams.drop(false)
	if a.nonce != "" {
		s.nonce, s.waiting = a.nonce, true
	}
	return nil
}

// meet answers hails and calls until the host says go, and drops all other
// lines. It returns false when the host hung up before that.
func (s *Sessions) meet(conn io.Writer, in *bufio.Reader, hello func() wire.Hello) (bool, error) {
	// This ends whatever a broken session left on the line, and waits for a
	// host to be there: without one, reads return at once.
	if _, err := conn.Write([]byte{'\n'}); err != nil {
		return false, err
	}
	if s.waiting {
		if err := s.answer(conn, hello); err != nil {
			return false, err
		}
	}
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, err
		}
		if nonce, ok := wire.CutWord(line, wire.Hail); ok {
			s.nonce = nonce
			if err := s.answer(conn, hello); err != nil {
				return false, err
			}
		} else if call, ok := wire.CutCall(line); ok && call.Nonce == s.nonce {
			if whole, err := s.take(conn, in, call); !whole {
				return false, err
			}
		} else if nonce, ok := wire.CutWord(line, wire.Go); ok && nonce == s.nonce {
			_, err := conn.Write(wire.AppendWord(nil, wire.Ready, nonce))
			return err == nil, err
		}
	}
}

// answer says hello to the last hail.
func (s *Sessions) answer(conn io.Writer, hello func() wire.Hello) error {
	s.waiting = false
	h := hello()
	h.Calls, h.Nonce = true, s.nonce
	_, err := conn.Write(h.AppendLine(nil))
	return err
}

// ahead is a connection some of whose input was read ahead.
type ahead struct {
	io.ReadWriteCloser
	in    *bufio.Reader
	nonce string // of the last hail among what was read; good once nothing reads any more
}

// hailLen is the length of a hail with the newline before it.
const hailLen = 1 + len(wire.Hail) + wire.NonceLen + 1

// Read keeps a hail that comes last, as the one that ends a session mostly does:
// it is answered at once instead of when it is said again. One in the content of
// a stream is answered as well, at worst, which does no harm.
func (a *ahead) Read(p []byte) (n int, err error) {
	if ready := a.in.Buffered(); ready > 0 {
		n, err = a.in.Read(p[:min(ready, len(p))])
	} else {
		n, err = a.ReadWriteCloser.Read(p)
	}
	if n >= hailLen && p[n-hailLen] == '\n' {
		if nonce, ok := wire.CutWord(p[n-hailLen+1:n], wire.Hail); ok {
			a.nonce = nonce
		}
	}
	return n, err
}

// streams hands the streams of all sessions to one HTTP server, and knows which
// session each belongs to.
type streams struct {
	ch   chan net.Conn
	done chan struct{}

	mu      sync.Mutex
	session int
	open    map[*stream]struct{}
	dropped int
}

// stream is one of the host's, until it is closed.
type stream struct {
	net.Conn
	l       *streams
	session int
}

func newStreams() *streams {
	return &streams{ch: make(chan net.Conn), done: make(chan struct{}), open: map[*stream]struct{}{}}
}

// Close takes the stream off the list.
func (c *stream) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

func (l *streams) next() {
	l.mu.Lock()
	l.session++
	l.mu.Unlock()
}

func (l *streams) join(c net.Conn) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := &stream{c, l, l.session}
	l.open[st] = struct{}{}
	return st
}

// drop closes the streams of earlier sessions, or without earlier those of this
// one as well, and returns how many were dropped since it last told.
func (l *streams) drop(earlier bool) (n int) {
	l.mu.Lock()
	var old []*stream
	for st := range l.open {
		if !earlier || st.session < l.session {
			old = append(old, st)
		}
	}
	l.dropped += len(old)
	if earlier {
		n, l.dropped = l.dropped, 0
	}
	l.mu.Unlock()
	for _, st := range old {
		_ = st.Close() // the session it belongs to is over
	}
	return n
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
func (l *streams) route(conn net.Conn) {
	c := l.join(conn)
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
