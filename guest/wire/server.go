package wire

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Content types of the Connect protocol with JSON, the only codec we speak.
const (
	unaryType  = "application/json"
	streamType = "application/connect+json"
)

// TimeoutHeader carries the milliseconds a call may take.
const TimeoutHeader = "Connect-Timeout-Ms"

// ServeUnary answers one unary call: it reads a Req, calls fn, and writes a
// Resp or the error fn returned.
func ServeUnary[Req, Resp any](w http.ResponseWriter, r *http.Request, fn func(context.Context, *Req) (*Resp, error)) {
	ctx, cancel, err := begin(r, unaryType)
	if err != nil {
		refuse(w, unaryType, err)
		return
	}
	defer cancel()
	req := new(Req)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	if err == nil {
		err = json.Unmarshal(body, req)
	}
	if err != nil {
		WriteError(w, requestError(err))
		return
	}
	resp, err := fn(ctx, req)
	if err != nil {
		WriteError(w, err)
		return
	}
	out, err := appendJSON(nil, resp)
	if err != nil {
		WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", unaryType)
	_, _ = w.Write(append(out, '\n')) // the caller has gone: nothing left to tell
}

// WriteError answers a unary call with an error.
func WriteError(w http.ResponseWriter, err error) {
	e := asError(err)
	body, _ := json.Marshal(e) // strings only: cannot fail
	w.Header().Set("Content-Type", unaryType)
	w.WriteHeader(e.Code.Status())
	_, _ = w.Write(body)
}

// ResponseStream is an answer of many messages. Its methods are for one goroutine.
type ResponseStream struct {
	w     http.ResponseWriter
	flush *http.ResponseController
	buf   []byte
}

// Send writes a message and flushes it.
func (s *ResponseStream) Send(msg any) error {
	buf, err := AppendMessage(s.buf[:0], msg)
	if err != nil {
		return err
	}
	s.buf = buf
	if err := s.Write(buf); err != nil {
		return err
	}
	return s.Flush()
}

// Write writes envelopes made by AppendMessage and does not flush.
func (s *ResponseStream) Write(envelopes []byte) error {
	_, err := s.w.Write(envelopes)
	return err
}

// Flush sends what was written.
func (s *ResponseStream) Flush() error { return s.flush.Flush() }

// ServeStream answers a call of one request and many responses. fn's error
// ends the stream; ctx ends when the client goes or the call's time is up.
func ServeStream[Req any](w http.ResponseWriter, r *http.Request, fn func(context.Context, *Req, *ResponseStream) error) {
	ctx, cancel, err := begin(r, streamType)
	if err != nil {
		refuse(w, streamType, err)
		return
	}
	defer cancel()
	s := &ResponseStream{w: w, flush: http.NewResponseController(w)}
	w.Header().Set("Content-Type", streamType)
	req := new(Req)
	if err = readOnly(r.Body, req); err == nil {
		err = fn(ctx, req, s)
	}
	if s.Write(appendEnd(nil, err)) == nil {
		_ = s.Flush()
	}
}

// readOnly reads the one message of a request and its end. Reading on to the
// end matters: only then does net/http notice that a client has gone.
func readOnly(body io.Reader, req any) error {
	payload, err := nextRequest(body, nil)
	if errors.Is(err, io.EOF) {
		return Errorf(InvalidArgument, "request: no message in it")
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, req); err != nil {
		return requestError(err)
	}
	var one [1]byte
	if n, _ := io.ReadFull(body, one[:]); n > 0 {
		return Errorf(Unimplemented, "request: more than one message for a call that takes one")
	}
	return nil
}

// nextRequest reads one message of a request's stream.
func nextRequest(body io.Reader, buf []byte) ([]byte, error) {
	flags, payload, err := ReadEnvelope(body, buf, MaxRequest)
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, requestError(err)
	case flags&flagCompressed != 0:
		return nil, errCompressed("gzip")
	case flags != 0:
		return nil, Errorf(InvalidArgument, "request: envelope with flags %#x: only messages may be sent", flags)
	}
	return payload, nil
}

// RequestStream is a call's messages. Its methods are for one goroutine.
type RequestStream struct {
	body io.Reader
	buf  []byte
}

// Receive reads the next message into msg, or returns io.EOF after the last.
func (s *RequestStream) Receive(msg any) error {
	payload, err := nextRequest(s.body, s.buf)
	if err != nil {
		return err
	}
	s.buf = payload[:0]
	if err := json.Unmarshal(payload, msg); err != nil {
		return requestError(err)
	}
	return nil
}

// ServeClientStream answers a call of many requests and one response. A read
// in Receive ends when ctx does.
func ServeClientStream[Resp any](w http.ResponseWriter, r *http.Request, fn func(context.Context, *RequestStream) (*Resp, error)) {
	ctx, cancel, err := begin(r, streamType)
	if err != nil {
		refuse(w, streamType, err)
		return
	}
	defer cancel()
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // else an early error waits for the rest of the request (golang/go#40747)
	stop := context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	w.Header().Set("Content-Type", streamType)
	resp, err := fn(ctx, &RequestStream{body: r.Body})
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	var out []byte
	if err == nil {
		out, err = AppendMessage(nil, resp)
	}
	if _, werr := w.Write(appendEnd(out, err)); werr == nil {
		_ = control.Flush()
	}
}

// begin checks what Connect demands of a call, and starts its clock.
func begin(r *http.Request, contentType string) (context.Context, context.CancelFunc, error) {
	if err := checkProtocol(r, contentType); err != nil {
		return nil, nil, err
	}
	timeout, err := Timeout(r.Header)
	if err != nil {
		return nil, nil, err
	}
	if timeout < 0 {
		return r.Context(), func() {}, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	return ctx, cancel, nil
}

func checkProtocol(r *http.Request, contentType string) error {
	if r.Method != http.MethodPost {
		return &statusError{http.StatusMethodNotAllowed, contentType,
			Errorf(Unimplemented, "method %s: procedures are called by POST", r.Method)}
	}
	got := mediaType(r.Header.Get("Content-Type"))
	if got != contentType {
		return &statusError{http.StatusUnsupportedMediaType, contentType,
			Errorf(Unimplemented, "content type %q: this procedure speaks Connect as %s only", got, contentType)}
	}
	if v := r.Header.Get("Connect-Protocol-Version"); v != "" && v != "1" {
		return Errorf(InvalidArgument, "connect-protocol-version %q: use 1", v)
	}
	encoding := "Content-Encoding"
	if contentType == streamType {
		encoding = "Connect-Content-Encoding"
	}
	if v := r.Header.Get(encoding); v != "" && v != "identity" {
		return errCompressed(v)
	}
	return nil
}

// mediaType returns a content type without its parameters, in lower case.
func mediaType(v string) string {
	v, _, _ = strings.Cut(v, ";")
	return strings.ToLower(strings.TrimSpace(v))
}

func errCompressed(encoding string) error {
	return Errorf(Unimplemented, "compression %q is not supported: supported encodings are identity", encoding)
}

// maxTimeoutDigits is the protocol's bound on the timeout header.
const maxTimeoutDigits = 10

// Timeout returns how long a call may take, -1 where the header names no
// limit, or an InvalidArgument error.
func Timeout(h http.Header) (time.Duration, error) {
	v := h.Get(TimeoutHeader)
	if v == "" {
		return -1, nil
	}
	ms, err := strconv.ParseUint(v, 10, 63)
	if err != nil || len(v) > maxTimeoutDigits {
		return 0, Errorf(InvalidArgument, "%s %q: use at most %d digits", TimeoutHeader, v, maxTimeoutDigits)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// statusError is a refusal whose HTTP status is not the one of its code.
type statusError struct {
	status int
	accept string
	err    *Error
}

func (s *statusError) Error() string { return s.err.Error() }

// refuse answers a call that never began: in the call's own form, or with a
// plain HTTP error where the caller does not speak it.
func refuse(w http.ResponseWriter, contentType string, err error) {
	var s *statusError
	switch {
	case errors.As(err, &s):
	case contentType == streamType:
		w.Header().Set("Content-Type", streamType)
		_, _ = w.Write(appendEnd(nil, err))
		return
	default:
		WriteError(w, err)
		return
	}
	w.Header().Set("Content-Type", unaryType)
	if s.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	} else {
		w.Header().Set("Accept-Post", s.accept)
	}
	body, _ := json.Marshal(s.err) // strings only: cannot fail
	w.WriteHeader(s.status)
	_, _ = w.Write(body)
}

// requestError words an error of reading or decoding a request.
func requestError(err error) error {
	var e *Error
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLong):
		return Errorf(ResourceExhausted, "request of more than %d bytes", tooLong.Limit)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Errorf(InvalidArgument, "request: ends in the middle of a message")
	}
	return &Error{Code: InvalidArgument, Message: "request: " + err.Error(), Err: err}
}
