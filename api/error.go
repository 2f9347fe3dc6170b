package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/dayfly/dayfly"
)

// statuses is the one table from kinds of error to HTTP statuses.
var statuses = map[dayfly.Kind]int{
	dayfly.Invalid:     http.StatusBadRequest,
	dayfly.Denied:      http.StatusForbidden,
	dayfly.NotFound:    http.StatusNotFound,
	dayfly.Conflict:    http.StatusConflict,
	dayfly.Internal:    http.StatusInternalServerError,
	dayfly.Unavailable: http.StatusServiceUnavailable,
	// Not 429, which client libraries repeat by themselves: a full disk or a
	// reached bound does not pass by waiting a second.
	dayfly.Exhausted: http.StatusInsufficientStorage,
}

// public returns the part of err a caller may read.
func public(err error) *dayfly.Error {
	var e *dayfly.Error
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		return dayfly.Errorf(dayfly.Exhausted, "request body is larger than %d bytes", tooBig.Limit)
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return dayfly.Errorf(dayfly.Unavailable, "the request was cancelled")
	}
	return dayfly.Errorf(dayfly.Internal, "internal error: the server's log says more")
}

// refuse answers r with err and logs what is not sent of it.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := public(err)
	s.logRefusal(r, e, err)
	s.answer(w, r, statusOf(e.Kind), e)
}

func statusOf(k dayfly.Kind) int {
	if status, ok := statuses[k]; ok {
		return status
	}
	return http.StatusInternalServerError
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
	s.log.Log(r.Context(), level, "request refused", "method", r.Method, "path", r.URL.Path, "kind", e.Kind, "err", err)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, e *dayfly.Error) {
	s.reply(w, r, status, ErrorReply{Error: *e})
}

// reply sends v as JSON.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // our own types always marshal
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		s.log.DebugContext(r.Context(), "reply not sent", "path", r.URL.Path, "err", err)
	}
}
