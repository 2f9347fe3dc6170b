// Package guest is the host's side of the conversation with a workspace's
// agent: the hello, streams to ports inside the guest, and the calls that only
// the host may make.
//
// It is given a byte stream by its caller and knows neither the machine nor
// the workspace behind it. The other end is hostile: everything it says is
// bounded, a stream it opens is refused, and an answer that makes no sense ends
// the session with an error rather than a guess.
package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// maxReply bounds the body of a reply to a host-only call.
const maxReply = 64 << 10

// Refusal is an agent's honest answer that it could not do what it was asked.
type Refusal struct {
	Status int    // of HTTP
	Said   string // the guest's own words, bounded: quote them
}

func (r *Refusal) Error() string { return fmt.Sprintf("the agent answered %d: %q", r.Status, r.Said) }

// Session is one conversation with an agent. Its methods may be called at the
// same time.
//
// It begins with lines (see wire.Hail) and goes on with streams from the first
// time that one is needed: a restored machine is renewed and thawed before.
type Session struct {
	conn  net.Conn
	nonce string
	quiet <-chan struct{} // closed when no hail is written any more
	http  *http.Client
	done  chan struct{} // closed when the session has ended

	turn sync.Mutex // held over a call, and over the beginning of streams
	r    *bufio.Reader
	ends sync.Once

	mux atomic.Pointer[yamux.Session] // nil: no stream was needed yet
}

// Open hails the agent on conn until it answers and starts a session. It takes
// over conn, also on error. ctx bounds the wait, not the session.
func Open(ctx context.Context, conn net.Conn) (*Session, wire.Hello, error) {
	s := &Session{conn: conn, nonce: newNonce(), r: bufio.NewReaderSize(conn, wire.MaxHello), done: make(chan struct{})}
	s.http = &http.Client{Transport: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, wire.AgentPort) },
		MaxResponseHeaderBytes: maxReply,
		DisableCompression:     true,
	}}
	var hello wire.Hello
	err := s.bounded(ctx, func() (err error) {
		hello, s.quiet, err = meet(conn, s.r, s.nonce)
		if err == nil && !hello.Calls {
			err = s.begin()
		}
		return err
	})
	if err != nil {
		return nil, hello, err
	}
	return s, hello, nil
}

// bounded does something with the lines of the session until ctx ends, which
// ends the session as well, as an error does: nobody knows then where its lines
// end.
func (s *Session) bounded(ctx context.Context, do func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() || err != nil {
		_ = s.Close()
		return errors.Join(context.Cause(ctx), err)
	}
	return nil
}

// begin lets streams begin. s.turn is held, or nobody else has s.
func (s *Session) begin() error {
	if err := s.goOn(); err != nil {
		return err
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // whoever holds the machine knows when it ends
	cfg.AcceptBacklog = 1       // nobody accepts: the guest opens no streams
	cfg.LogOutput = io.Discard  // what it logs are bytes of the guest's
	cfg.StreamOpenTimeout = 0   // a paused or busy guest is no reason to end the session
	cfg.ConnectionWriteTimeout = time.Minute
	mux, err := yamux.Client(&buffered{s.conn, s.r}, cfg)
	if err != nil {
		return fmt.Errorf("guest: session: %w", err)
	}
	s.mux.Store(mux)
	go func() {
		<-mux.CloseChan()
		s.end()
	}()
	return nil
}

// streams returns what carries streams, and begins it if need be. A ctx that
// ends before is no reason to end the session: others may wait for it, too.
func (s *Session) streams(ctx context.Context) (*yamux.Session, error) {
	if mux := s.mux.Load(); mux != nil {
		return mux, nil
	}
	select {
	case err := <-s.beginBehind():
		return s.mux.Load(), err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// beginBehind lets streams begin, if they have not yet, and says when. It does
// not wait.
func (s *Session) beginBehind() <-chan error {
	begun := make(chan error, 1)
	go func() {
		s.turn.Lock()
		defer s.turn.Unlock()
		if s.mux.Load() != nil {
			begun <- nil
			return
		}
		begun <- s.bounded(context.Background(), s.begin)
	}()
	return begun
}

// buffered is a connection some of whose input was read ahead.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Dial opens a stream to a port inside the guest. A port nobody listens on is
// an Unavailable error. The agent's own is always there, and its answer is read
// with the first bytes that it sends: one round trip less.
func (s *Session) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	mux, err := s.streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("guest: dial port %d: %w", port, err)
	}
	st, err := mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("guest: dial port %d: %w", port, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = st.SetDeadline(time.Unix(1, 0)) })
	err = ask(st, port)
	if err == nil && port != wire.AgentPort {
		err = answer(st, port)
	}
	if !stop() || err != nil {
		st.Close()
		return nil, errors.Join(context.Cause(ctx), err)
	}
	if port == wire.AgentPort {
		return &asked{Conn: st}, nil
	}
	return st, nil
}

// asked is a stream to the agent whose answer to the preamble is still to come.
type asked struct {
	net.Conn
	once sync.Once
	err  error
}

func (a *asked) Read(p []byte) (int, error) {
	a.once.Do(func() { a.err = answer(a.Conn, wire.AgentPort) })
	if a.err != nil {
		return 0, a.err
	}
	return a.Conn.Read(p)
}

func ask(c net.Conn, port uint16) error {
	var b [4]byte
	binary.BigEndian.PutUint16(b[:2], wire.ProtocolVersion)
	binary.BigEndian.PutUint16(b[2:], port)
	if _, err := c.Write(b[:]); err != nil {
		return fmt.Errorf("guest: dial port %d: %w", port, err)
	}
	return nil
}

func answer(c net.Conn, port uint16) error {
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return fmt.Errorf("guest: dial port %d: %w", port, err)
	}
	switch b[0] {
	case wire.PreambleOK:
		return nil
	case wire.PreambleRefused:
		return dayfly.Errorf(dayfly.Unavailable, "nothing listens on port %d of the workspace", port)
	default:
		return fmt.Errorf("guest: dial port %d: answer %d", port, b[0])
	}
}

// Init makes the empty VM a workspace. The error is an *Unconfirmed where the
// agent did less than it was asked. The key in in is cleared.
func (s *Session) Init(ctx context.Context, in wire.Init) (wire.InitReply, error) {
	var reply wire.InitReply
	err := s.call(ctx, wire.InitPath, in, &reply)
	if in.Root != nil {
		clear(in.Root.DiskKey)
	}
	if err == nil {
		err = checkInit(&in, &reply)
	}
	if err == nil {
		err = s.keepTime(ctx, arrival(in.Timestamp, reply.Timeline), startDelay)
	}
	if err != nil {
		return reply, fmt.Errorf("guest: init: %w", err)
	}
	return reply, nil
}

// Poweroff asks the guest to end its processes, write its disk out and power
// off. The machine's end, not this call's return, says that it did.
func (s *Session) Poweroff(ctx context.Context) error {
	if _, err := s.post(ctx, wire.PoweroffPath, nil); err != nil && s.over() {
		return nil // it went down before it could answer
	} else if err != nil {
		return fmt.Errorf("guest: power off: %w", err)
	}
	return nil
}

func (s *Session) post(ctx context.Context, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guest"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, &Refusal{resp.StatusCode, string(clip(answer))}
	}
	return answer, nil
}

// clip bounds what of the guest's own words goes into an error.
func clip(b []byte) []byte {
	const most = 512
	return b[:min(len(b), most)]
}

// Done is closed when the session has ended. That the guest ended one without
// streams is not seen before the next call.
func (s *Session) Done() <-chan struct{} { return s.done }

func (s *Session) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *Session) end() { s.ends.Do(func() { close(s.done) }) }

// Close hangs up. Streams end with an error.
func (s *Session) Close() error {
	defer s.end()
	s.http.CloseIdleConnections()
	if mux := s.mux.Load(); mux != nil {
		return mux.Close()
	}
	_ = s.conn.Close() // the guest may have ended it; a call under way ends with an error
	return nil
}
