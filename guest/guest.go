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
type Session struct {
	mux  *yamux.Session
	http *http.Client
}

// Open hails the agent on conn until it answers and starts a session. It takes
// over conn, also on error. ctx bounds the wait, not the session.
func Open(ctx context.Context, conn net.Conn) (*Session, wire.Hello, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	r := bufio.NewReaderSize(conn, wire.MaxHello)
	hello, err := meet(conn, r)
	if !stop() || err != nil {
		conn.Close()
		return nil, hello, errors.Join(context.Cause(ctx), err)
	}
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // whoever holds the machine knows when it ends
	cfg.AcceptBacklog = 1       // nobody accepts: the guest opens no streams
	cfg.LogOutput = io.Discard  // what it logs are bytes of the guest's
	cfg.StreamOpenTimeout = 0   // a paused or busy guest is no reason to end the session
	cfg.ConnectionWriteTimeout = time.Minute
	mux, err := yamux.Client(&buffered{conn, r}, cfg)
	if err != nil {
		conn.Close()
		return nil, hello, fmt.Errorf("guest: session: %w", err)
	}
	s := &Session{mux: mux}
	s.http = &http.Client{Transport: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, wire.AgentPort) },
		MaxResponseHeaderBytes: maxReply,
		DisableCompression:     true,
	}}
	return s, hello, nil
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
	st, err := s.mux.OpenStream()
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
	if err != nil {
		return reply, fmt.Errorf("guest: init: %w", err)
	}
	return reply, nil
}

// Poweroff asks the guest to end its processes, write its disk out and power
// off. The machine's end, not this call's return, says that it did.
func (s *Session) Poweroff(ctx context.Context) error {
	if _, err := s.post(ctx, wire.PoweroffPath, nil); err != nil && s.mux.IsClosed() {
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

// Done is closed when the session has ended, by either side.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close hangs up. Streams end with an error.
func (s *Session) Close() error {
	s.http.CloseIdleConnections()
	return s.mux.Close()
}
