package api

import (
	"bufio"
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// exchange is one request and what is to be said of it afterwards. Only its own
// goroutine uses it.
type exchange struct {
	id     string
	at     time.Time
	route  string // pattern of the mux
	caller dayfly.Caller
	known  bool          // the caller is who it says
	shown  bool          // by a key or token
	req    *http.Request // as it was routed
	target string        // what was changed
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

func exchangeOf(r *http.Request) *exchange {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return new(exchange)
}

// maxRequestID bounds the ids that callers give their requests.
const maxRequestID = 64

const requestChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// requestID returns the caller's own id of its request where it is fit for a
// log, else a fresh one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id != "" && len(id) <= maxRequestID && strings.Trim(id, requestChars) == "" {
		return id
	}
	return strings.ToLower(rand.Text()[:20])
}

// recorder remembers the status of a reply, which always has the request's id.
// before is called with it, once, before anything of the reply is sent.
type recorder struct {
	http.ResponseWriter
	id     string
	status int
	before func(status int)
}

// Unwrap is for http.ResponseController.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// WriteHeader drops replies that are not the last: only guests send them, and
// what is in their headers has not been looked at.
func (rec *recorder) WriteHeader(status int) {
	if status < http.StatusOK && status != http.StatusSwitchingProtocols {
		return
	}
	if rec.status == 0 {
		rec.answers(status)
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) answers(status int) {
	rec.status = status
	rec.Header().Set("X-Request-Id", rec.id)
	rec.before(status)
}

func (rec *recorder) Write(p []byte) (int, error) {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	return rec.ResponseWriter.Write(p)
}

// FlushError is for http.ResponseController: what is flushed has a header.
func (rec *recorder) FlushError() error {
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(rec.ResponseWriter).Flush()
}

// Hijack is for http.ResponseController. Who takes a connection over answers on
// it, to a request to switch protocols.
func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if rec.status == 0 {
		rec.answers(http.StatusSwitchingProtocols)
	}
	return http.NewResponseController(rec.ResponseWriter).Hijack()
}

// writeDown has a change in the audit log before its caller is answered.
func (s *Server) writeDown(r *http.Request, x *exchange, status int) {
	if x.req != nil {
		r = x.req // only that one has the values in the path
	}
	if s.o.Audit == nil || !x.known || !changes(r, x.route) {
		return
	}
	s.o.Audit.AddAudit(context.WithoutCancel(r.Context()), dayfly.AuditEntry{
		At: x.at.UTC(), Key: x.caller.Key, Namespace: x.caller.Namespace, From: x.caller.From,
		Action: action(r, x.route), Target: x.target, Status: status, Request: x.id,
	})
}

// finish tells of a request once it has been answered.
func (s *Server) finish(r *http.Request, x *exchange, rec *recorder) {
	if rec.status == 0 { // net/http answers by itself, after this
		rec.answers(http.StatusOK)
	}
	status := rec.status
	took := time.Since(x.at)
	s.log.DebugContext(r.Context(), "request", "request", x.id, "route", x.route, "status", status, "took", took, "from", x.caller.From)
	if s.o.Observe != nil {
		s.o.Observe(x.route, status, took)
	}
}

// harmless are procedures of the in-guest API that change nothing, and the
// parts of a command's input, whose start is what counts.
var harmless = map[string]bool{
	"process.Process/List": true, "process.Process/Connect": true, "process.Process/SendInput": true, "process.Process/StreamInput": true,
	"process.Process/CloseStdin": true, "process.Process/Update": true,
	"filesystem.Filesystem/Stat": true, "filesystem.Filesystem/ListDir": true, "filesystem.Filesystem/WatchDir": true,
	"filesystem.Filesystem/CreateWatcher": true, "filesystem.Filesystem/GetWatcherEvents": true, "filesystem.Filesystem/RemoveWatcher": true,
}

// changes says whether a request is one for the audit log.
func changes(r *http.Request, route string) bool {
	switch {
	case route == "":
		return false
	case route == guestRoute && harmless[r.PathValue("path")]:
		return false
	case r.Method == http.MethodGet:
		return route == execRoute
	}
	return r.Method != http.MethodHead && r.Method != http.MethodOptions
}

// action is the method and route of a request; of one to the in-guest API, with
// what it asks for.
func action(r *http.Request, route string) string {
	if route != guestRoute {
		return route
	}
	const longest = 200
	path := r.PathValue("path")
	return r.Method + " " + strings.TrimSuffix(guestRoute, "{path...}") + path[:min(len(path), longest)]
}
