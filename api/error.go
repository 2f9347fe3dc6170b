package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly/dayfly"
)

// kind is what a kind of error is to a caller.
type kind struct {
	status int
	title  string
	remedy string
}

// kinds is the one table from kinds of error to problems.
var kinds = map[dayfly.Kind]kind{
	dayfly.Invalid: {http.StatusBadRequest, "The request can never work as it is.",
		"Change the request as the detail says; sending it again as it is has the same end."},
	dayfly.Denied: {http.StatusForbidden, "This caller may not do this.",
		"Use a key that may do it; an admin makes one with: dayfly keys create."},
	dayfly.NotFound: {http.StatusNotFound, "What the request names is not there.",
		"Check the name or id, and that the key belongs to its namespace."},
	dayfly.Conflict: {http.StatusConflict, "The thing is in a state that does not allow it.",
		"Look at its state, bring it into one that allows this, or wait for what is under way."},
	dayfly.Internal: {http.StatusInternalServerError, "The fault is the server's.",
		"The server's log says more; look there for the request's id."},
	dayfly.Unavailable: {http.StatusServiceUnavailable, "The server, or what it depends on, cannot do it now.",
		"Try again later; if that does not help, dayfly doctor says what the host lacks."},
	// Not 429, which client libraries repeat by themselves, unless there is a
	// time after which it may work: a full disk does not pass by waiting.
	dayfly.Exhausted: {http.StatusInsufficientStorage, "A limit or a disk is full.",
		"Delete or stop something, or have the limit raised; with Retry-After, wait."},
}

// statusError is an error whose status is not that of its kind.
type statusError struct {
	err    *dayfly.Error
	status int
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func withStatus(status int, e *dayfly.Error) error { return &statusError{e, status} }

var errRevoked = withStatus(http.StatusUnauthorized, dayfly.Errorf(dayfly.Denied, "the key was revoked or has expired"))

// public returns the part of err a caller may read.
func public(err error) *dayfly.Error {
	var e *dayfly.Error
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return dayfly.Errorf(dayfly.Invalid, "request body is larger than %d bytes", tooBig.Limit)
	case errors.As(err, &e):
		if _, ok := kinds[e.Kind]; ok {
			return e
		}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return dayfly.Errorf(dayfly.Unavailable, "the request was cancelled")
	}
	return dayfly.Errorf(dayfly.Internal, "internal error: the server's log says more")
}

// refusalOf returns what is said of err, and with which status.
func refusalOf(ctx context.Context, err error) (*dayfly.Error, int) {
	var why *dayfly.Error
	if cause := context.Cause(ctx); errors.As(cause, &why) {
		err = cause // the key was revoked, and whatever came of that
	}
	e := public(err)
	var own *statusError
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &own):
		return e, own.status
	case errors.As(err, &tooBig):
		return e, http.StatusRequestEntityTooLarge
	case e.Kind == dayfly.Exhausted && e.RetryAfter > 0:
		return e, http.StatusTooManyRequests
	}
	return e, kinds[e.Kind].status
}

// problemOf is the wire form of an error.
func problemOf(r *http.Request, e *dayfly.Error, status int) Problem {
	k := kinds[e.Kind]
	return Problem{
		Type: "urn:dayfly:" + string(e.Kind), Title: k.title, Status: status, Detail: e.Msg, Instance: exchangeOf(r).id,
		Kind: e.Kind, Stage: e.Stage, Remedy: k.remedy,
	}
}

// refuse answers r with err and logs what is not sent of it.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e, status := refusalOf(r.Context(), err)
	s.logRefusal(r, e, err)
	h := w.Header()
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="dayfly"`)
	}
	s.send(w, r, message{status, "application/problem+json", problemOf(r, e, status)})
}

func (s *Server) logRefusal(r *http.Request, e *dayfly.Error, err error) {
	level := slog.LevelDebug
	switch {
	case r.Context().Err() != nil: // the caller left; that is no fault of ours
	case e.Kind == dayfly.Internal:
		level = slog.LevelError
	case e.Err != nil:
		level = slog.LevelWarn
	}
	s.log.Log(r.Context(), level, "request refused", "request", exchangeOf(r).id, "method", r.Method, "path", r.URL.Path, "kind", e.Kind, "err", err)
}

// replyTimeout bounds how long a caller takes for a reply that is no stream.
const replyTimeout = 30 * time.Second

// restTimeout is how long a caller takes to send what nobody will read: the rest
// of a body, which net/http reads before it sends a reply.
const restTimeout = 5 * time.Second

// bound bounds the time that is left for a request when its reply is known.
func bound(w http.ResponseWriter) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(restTimeout))
	_ = rc.SetWriteDeadline(time.Now().Add(replyTimeout))
}

// noContent replies that it is done.
func noContent(w http.ResponseWriter) {
	bound(w)
	w.WriteHeader(http.StatusNoContent)
}

// message is a reply that is known whole.
type message struct {
	status      int
	contentType string
	body        any
}

// reply sends v as JSON.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, status int, v any) {
	s.send(w, r, message{status, "application/json", v})
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, m message) {
	body, err := json.Marshal(m.body)
	if err != nil { // our own types always marshal
		panic(err)
	}
	bound(w)
	h := w.Header()
	h.Set("Content-Type", m.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(m.status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		s.log.DebugContext(r.Context(), "reply not sent", "path", r.URL.Path, "err", err)
	}
}

// lacking is what a server answers that lacks what a route needs.
func lacking(what string) error {
	return dayfly.Errorf(dayfly.Unavailable, "%s: this server is part of a command and has none: run dayfly serve, and use that", what)
}
