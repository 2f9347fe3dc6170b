package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Client calls procedures of an agent. Its methods may be called at the same
// time. A deadline of a call's ctx is sent along: for ProcessStart that is the
// lifetime of the process too.
type Client struct {
	HTTP   *http.Client // nil: http.DefaultClient; must have no Timeout, which would cut streams
	Base   string       // what comes before a procedure, such as http://host/v1/workspaces/ID/guest
	Header http.Header  // sent with every call: X-Access-Token, Authorization and the like
}

// Unary calls a procedure of one request and one response. resp may be nil.
// Errors are *Error.
func (c *Client) Unary(ctx context.Context, procedure string, req, resp any) error {
	body, err := appendJSON(nil, req)
	if err != nil {
		return err
	}
	answer, err := c.post(ctx, procedure, unaryType, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	out, err := readAll(answer.Body, MaxResponse)
	if err != nil {
		return callError(ctx, err)
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(out, resp); err != nil {
		return badAnswer(err)
	}
	return nil
}

// ServerStream calls a procedure of one request and many responses. It returns
// when the answer begins; Close the stream.
func (c *Client) ServerStream(ctx context.Context, procedure string, req any) (*Stream, error) {
	body, err := AppendMessage(nil, req)
	if err != nil {
		return nil, err
	}
	answer, err := c.post(ctx, procedure, streamType, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return &Stream{ctx: ctx, body: answer.Body}, nil
}

// Stream is an answer of many messages. Receive is for one goroutine; Close
// may be called at any time.
type Stream struct {
	ctx  ender // of the call, to tell a cancelled read from a broken one
	body io.ReadCloser
	buf  []byte
	err  error
}

// Receive reads the next message into msg. After the last it returns io.EOF;
// any other error is an *Error. An error is final.
func (s *Stream) Receive(msg any) error {
	if s.err != nil {
		return s.err
	}
	s.err = s.receive(msg)
	return s.err
}

func (s *Stream) receive(msg any) error {
	flags, payload, err := ReadEnvelope(s.body, s.buf, MaxResponse)
	switch {
	case errors.Is(err, io.EOF):
		return Errorf(Unavailable, "the connection ended before the stream was complete")
	case err != nil:
		return callError(s.ctx, err)
	case flags&flagCompressed != 0:
		return Errorf(Internal, "the answer is compressed, which was not asked for")
	case flags&flagEnd != 0:
		return decodeEnd(payload)
	}
	s.buf = payload[:0]
	if ev, ok := msg.(*EventResponse); ok && ev.parseOutput(payload) {
		return nil
	}
	if err := json.Unmarshal(payload, msg); err != nil {
		return badAnswer(err)
	}
	return nil
}

// Close ends the call. It does not end what the call started.
func (s *Stream) Close() error { return s.body.Close() }

// ClientStream calls a procedure of many requests and one response.
func (c *Client) ClientStream(ctx context.Context, procedure string) (*Sender, error) {
	r, w := io.Pipe()
	s := &Sender{ctx: ctx, pipe: w, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		answer, err := c.post(ctx, procedure, streamType, r)
		s.answer, s.err = answer, err
		if err != nil {
			_ = r.CloseWithError(io.EOF)
		}
	}()
	return s, nil
}

// Sender is a call's requests. Its methods are for one goroutine. Every Sender
// ends with CloseAndReceive, or with the call's ctx.
type Sender struct {
	ctx    ender
	pipe   *io.PipeWriter
	buf    []byte
	done   chan struct{} // closed when answer and err are set
	answer *http.Response
	err    error
}

// Send writes a message. It returns io.EOF when the other side takes no more:
// CloseAndReceive says why.
func (s *Sender) Send(msg any) error {
	buf, err := AppendMessage(s.buf[:0], msg)
	if err != nil {
		return err
	}
	s.buf = buf
	if _, err := s.pipe.Write(buf); err != nil {
		return io.EOF
	}
	return nil
}

// CloseAndReceive ends the requests and reads the answer into resp, which may
// be nil.
func (s *Sender) CloseAndReceive(resp any) error {
	_ = s.pipe.Close()
	<-s.done
	if s.err != nil {
		return s.err
	}
	stream := &Stream{ctx: s.ctx, body: s.answer.Body}
	defer stream.Close()
	if resp == nil {
		resp = new(Empty)
	}
	if err := stream.Receive(resp); err != nil {
		if errors.Is(err, io.EOF) {
			return Errorf(Internal, "the answer holds no message")
		}
		return err
	}
	if err := stream.Receive(new(Empty)); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// post sends a request and returns an answer of the right kind.
func (c *Client) post(ctx context.Context, procedure, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Base+procedure, body)
	if err != nil {
		return nil, &Error{Code: InvalidArgument, Message: err.Error(), Err: err}
	}
	for k, v := range c.Header {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Connect-Protocol-Version", "1")
	req.Header.Set("Accept-Encoding", "identity")
	if deadline, ok := ctx.Deadline(); ok {
		ms := max(0, time.Until(deadline).Milliseconds())
		if text := strconv.FormatInt(ms, 10); len(text) <= maxTimeoutDigits {
			req.Header.Set(TimeoutHeader, text)
		}
	}
	hc := c.HTTP
	if hc == nil {
		hc = http.DefaultClient
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, callError(ctx, err)
	}
	if resp.StatusCode == http.StatusOK && mediaType(resp.Header.Get("Content-Type")) == contentType {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := readAll(resp.Body, maxErrorBody)
	if resp.StatusCode == http.StatusOK {
		return nil, Errorf(Internal, "the answer's content type is %q, not %s", resp.Header.Get("Content-Type"), contentType)
	}
	return nil, errorFromResponse(resp.StatusCode, text)
}

// maxErrorBody bounds the body of a refusal.
const maxErrorBody = 64 << 10

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if int64(len(b)) > limit {
		return b[:limit], Errorf(ResourceExhausted, "the answer is longer than %d bytes", limit)
	}
	return b, err
}

// ender is the part of a context that says whether the caller gave up.
type ender interface{ Err() error }

// callError words an error of the transport.
func callError(ctx ender, err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil:
		return &Error{Code: CodeOf(ctx.Err()), Message: "call: " + ctx.Err().Error(), Err: ctx.Err()}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Code: Unavailable, Message: "the connection ended in the middle of a message", Err: err}
	}
	return &Error{Code: Unavailable, Message: err.Error(), Err: err}
}

func badAnswer(err error) error {
	return &Error{Code: Internal, Message: "the answer cannot be decoded: " + err.Error(), Err: err}
}
