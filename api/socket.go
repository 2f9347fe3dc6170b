package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/dayfly/dayfly"
)

// Bounds on a WebSocket.
const (
	maxSocketMessage = 1 << 20
	firstMessage     = 30 * time.Second // until it must have come
	socketWrite      = 30 * time.Second // for one message to be taken
)

// ConnectExec answers GET /v1/workspaces/{id}/exec.
func (s routes) ConnectExec(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		conn, err := s.upgrade(w, r)
		if err != nil {
			return err
		}
		defer conn.CloseNow() //nolint:errcheck // it was closed in order, or broke
		k := &socket{s: s.Server, r: r, conn: conn}
		k.serve(id)
		return nil
	})
}

// upgrade makes a request a WebSocket. A page of another origin may, if it shows
// a token: nothing that a browser sends by itself opens anything.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil, dayfly.Errorf(dayfly.Invalid, "this is a WebSocket: connect as one, or POST the command")
	}
	conn, err := websocket.Accept(&silent{ResponseWriter: w}, r, &websocket.AcceptOptions{
		Subprotocols: []string{socketProtocol}, InsecureSkipVerify: exchangeOf(r).shown,
	})
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "WebSocket: %w", err)
	}
	conn.SetReadLimit(maxSocketMessage)
	return conn, nil
}

// silent lets nothing pass but the change of protocol, so that a refusal has
// our own form.
type silent struct {
	http.ResponseWriter
	passes bool
}

// Unwrap is for whoever takes over the connection.
func (q *silent) Unwrap() http.ResponseWriter { return q.ResponseWriter }

func (q *silent) WriteHeader(status int) {
	if q.passes = status == http.StatusSwitchingProtocols; q.passes {
		q.ResponseWriter.WriteHeader(status)
	}
}

func (q *silent) Write(p []byte) (int, error) {
	if !q.passes {
		return len(p), nil
	}
	return q.ResponseWriter.Write(p)
}

// socket is a WebSocket with one command.
type socket struct {
	s    *Server
	r    *http.Request
	conn *websocket.Conn
}

func (k *socket) serve(id dayfly.ID) {
	ctx, cancel := context.WithCancel(k.r.Context())
	defer cancel()
	x, err := k.first(ctx)
	if err != nil {
		k.fail(err)
		return
	}
	c, err := k.s.begin(ctx, id, x, x.OpenStdin || x.Tty)
	if err != nil {
		k.fail(err)
		return
	}
	var in io.Reader
	inside, outside := io.Pipe()
	if x.OpenStdin || x.Tty {
		in = inside
	} else {
		_ = inside.Close() // so that what comes for it is dropped
	}
	var others sync.WaitGroup
	// What is read from here on does not end with ctx: a read that is cancelled
	// breaks the connection, and there are last words to be said.
	others.Go(func() {
		defer cancel()
		k.listen(ctx, c, outside)
	})
	others.Go(func() { k.beat(ctx, cancel) })
	err = k.send(ctx, ExecEvent{Type: "start", Pid: c.pid})
	var o outcome
	if err == nil {
		o, err = c.run(ctx, in, func(channel byte, data []byte) error {
			return k.write(ctx, websocket.MessageBinary, append([]byte{channel}, data...))
		})
	} else {
		c.end(ctx)
		c.close()
	}
	_ = inside.Close()
	if err != nil {
		k.fail(err)
	} else {
		_ = k.send(ctx, ExecEvent{Type: "exit", Pid: c.pid, ExitCode: &o.code, Signal: o.signal, TimedOut: o.timedOut})
		_ = k.conn.Close(websocket.StatusNormalClosure, "")
	}
	_ = k.conn.CloseNow()
	cancel()
	others.Wait()
}

// first reads what to run.
func (k *socket) first(ctx context.Context) (Exec, error) {
	ctx, cancel := context.WithTimeout(ctx, firstMessage)
	defer cancel()
	kind, b, err := k.conn.Read(ctx)
	if err != nil {
		return Exec{}, err
	}
	if kind != websocket.MessageText {
		return Exec{}, dayfly.Errorf(dayfly.Invalid, "the first message is binary: send an Exec as JSON text")
	}
	return parseExec(b)
}

// parseExec reads the first message of a WebSocket.
func parseExec(b []byte) (Exec, error) {
	var x Exec
	if err := strictly(b, &x); err != nil {
		return Exec{}, err
	}
	if x.Stdin != nil || x.StdinBase64 != nil || x.Detach || x.Binary {
		return Exec{}, dayfly.Errorf(dayfly.Invalid, "stdin, stdin_base64, detach and binary are not for a WebSocket")
	}
	return x, x.check()
}

func strictly(b []byte, v any) error {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return dayfly.Errorf(dayfly.Invalid, "message: something follows the JSON object")
	}
	return nil
}

// listen takes what the caller sends until it sends no more.
func (k *socket) listen(ctx context.Context, c *command, in *io.PipeWriter) {
	for {
		kind, b, err := k.conn.Read(context.WithoutCancel(ctx))
		if err != nil {
			return
		}
		switch {
		case kind == websocket.MessageText:
			err = k.control(ctx, c, b, in)
		case len(b) == 0 || b[0] != stdin:
			err = dayfly.Errorf(dayfly.Invalid, "a binary message begins with the byte 0, for stdin")
		default:
			_, _ = in.Write(b[1:]) // a command that takes no more has closed its input, as it may
		}
		if err != nil {
			k.fail(err)
			return
		}
	}
}

// control carries out a text message.
func (k *socket) control(ctx context.Context, c *command, b []byte, in *io.PipeWriter) error {
	var m ExecControl
	if err := strictly(b, &m); err != nil {
		return err
	}
	switch m.Type {
	case "close_stdin":
		_ = in.Close()
	case "resize":
		if m.Size == nil || !m.Size.ok() {
			return dayfly.Errorf(dayfly.Invalid, "resize: use a size of 1 to 65535 columns and rows")
		}
		_ = c.resize(ctx, *m.Size) // of a command that has ended, or has no terminal
	case "signal":
		sig, err := parseSignal(m.Signal)
		if err != nil {
			return err
		}
		_ = c.signal(ctx, sig) // to one that has ended
	default:
		return oneOf("type", m.Type, "resize", "signal", "close_stdin")
	}
	return nil
}

// beat finds out that the caller is gone.
func (k *socket) beat(ctx context.Context, cancel context.CancelFunc) {
	for sleep(ctx, heartbeat) == nil {
		bounded, done := context.WithTimeout(ctx, socketWrite)
		err := k.conn.Ping(bounded)
		done()
		if err != nil {
			cancel()
			return
		}
	}
}

func (k *socket) send(ctx context.Context, e ExecEvent) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return k.write(ctx, websocket.MessageText, b)
}

// write sends a message. Who does not take it in time is cut off.
func (k *socket) write(ctx context.Context, kind websocket.MessageType, b []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), socketWrite)
	defer cancel()
	return k.conn.Write(ctx, kind, b)
}

// fail tells the caller why this is the end.
func (k *socket) fail(err error) {
	e, status := refusalOf(k.r.Context(), err)
	k.s.logRefusal(k.r, e, err)
	problem := problemOf(k.r, e, status)
	if k.send(k.r.Context(), ExecEvent{Type: "error", Problem: &problem}) == nil {
		_ = k.conn.Close(websocket.StatusPolicyViolation, string(e.Kind))
	}
}
