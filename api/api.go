// Package api is HTTP in: the routes of openapi.yaml, who may use them, JSON
// with unknown fields refused, one table from kinds of error to problems, and
// commands, files and the in-guest API of each workspace passed through.
//
// It decides nothing about workspaces, images, kernels or the host: it states
// what it needs of them as interfaces, and hands them who asks in the context.
// Always true: a body is bounded or streamed, never gathered; what a guest
// answers is streamed or bounded, and so are its headers; a cause that is not
// meant for callers is logged and never sent; a key ends with all its streams;
// a caller's key never reaches a guest.
package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// Options are what a Server is made of. All but Workspaces may be nil where a
// server does not offer them; their routes answer unavailable.
type Options struct {
	Workspaces Workspaces
	Snapshots  Snapshots
	Guests     Guests
	Logs       Logs
	Meter      Meter
	Events     Events
	Webhooks   Webhooks
	Keys       Keys
	Namespaces Namespaces
	Audit      Audit  // nil: no changes are written down
	Health     Health // nil: ready as long as it answers
	Images     Images
	Kernels    Kernels
	Host       HostChecks
	System     System
	Log        *slog.Logger // nil: nothing is logged

	// Auth knows callers. If it is nil everybody is the host's own user.
	// Connections of TrustLocal need not show anything.
	Auth Authenticator

	// Metrics answers GET /metrics, for admins; with OpenMetrics, for all.
	Metrics     http.Handler
	OpenMetrics bool

	// Observe, if set, is told of each reply: its route as in openapi.yaml, such
	// as "GET /v1/workspaces/{id}", or "" for none of them.
	Observe func(route string, status int, took time.Duration)
}

// Server answers requests. It may serve any number at the same time.
type Server struct {
	o      Options
	log    *slog.Logger
	mux    *http.ServeMux
	guests *guests
	fails  *limiter

	draining  chan struct{} // closed by Drain
	drainOnce sync.Once
}

// New makes a Server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Log, mux: http.NewServeMux(), fails: newLimiter(), draining: make(chan struct{})}
	s.guests = newGuests(o.Guests)
	HandlerWithOptions(routes{s}, StdHTTPServerOptions{
		BaseRouter: s.mux,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			s.refuse(w, r, dayfly.Errorf(dayfly.Invalid, "request: %w", err))
		},
	})
	s.mux.HandleFunc(guestRoute, s.guest)
	if o.Metrics != nil {
		s.mux.Handle(metricsRoute, o.Metrics)
	}
	return s
}

// Close lets go of idle connections to guests. Requests under way go on.
func (s *Server) Close() error {
	s.guests.close()
	return nil
}

type localKey struct{}

// TrustLocal marks the context of a connection whose other end is the host's own
// user, such as one to a socket that only root can open. For http.Server's
// ConnContext and BaseContext.
func TrustLocal(ctx context.Context) context.Context {
	return context.WithValue(ctx, localKey{}, true)
}

func isLocal(ctx context.Context) bool {
	local, _ := ctx.Value(localKey{}).(bool)
	return local
}

type loopbackKey struct{}

// OnLoopback marks the context of a connection to a loopback TCP address, which
// any web page in a local browser can reach: requests made for another host name
// (DNS rebinding) or by a page of another origin are denied.
func OnLoopback(ctx context.Context) context.Context {
	return context.WithValue(ctx, loopbackKey{}, true)
}

func onLoopback(ctx context.Context) bool {
	on, _ := ctx.Value(loopbackKey{}).(bool)
	return on
}

// routes carries the generated interface's methods, so that Server's own stay few.
type routes struct{ *Server }

var _ ServerInterface = routes{}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{id: requestID(r), at: time.Now()}
	rec := &recorder{ResponseWriter: w, id: x.id, before: func(status int) { s.writeDown(r, x, status) }}
	r = r.WithContext(withExchange(r.Context(), x))
	_, x.route = s.mux.Handler(r)
	// A deadline for writing stays with a connection, whatever request set it.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	defer func() { s.finish(r, x, rec) }()
	if err := s.fromElsewhere(r); err != nil {
		s.refuse(rec, r, err)
		return
	}
	s.enter(rec, r, x)
}

// route hands r to the mux, whose own refusals are plain text, and gives those
// the form of ours.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	h, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r) // not h: only the mux sets path values
		return
	}
	c := &capture{header: w.Header()}
	h.ServeHTTP(c, r)
	e := dayfly.Errorf(dayfly.NotFound, "no such route: %s %s", r.Method, r.URL.Path)
	if c.status == http.StatusMethodNotAllowed {
		e = dayfly.Errorf(dayfly.Invalid, "%s is not a method of %s: use %s", r.Method, r.URL.Path, w.Header().Get("Allow"))
	}
	s.refuse(w, r, withStatus(c.status, e))
}

// capture keeps the status and headers of a reply and drops its body.
type capture struct {
	header http.Header
	status int
}

func (c *capture) Header() http.Header         { return c.header }
func (c *capture) WriteHeader(status int)      { c.status = status }
func (c *capture) Write(p []byte) (int, error) { return len(p), nil }

// sameOrigin denies requests that change something and come from a web page of
// another origin.
var sameOrigin = http.NewCrossOriginProtection()

// fromElsewhere denies what a web page could have sent.
func (s *Server) fromElsewhere(r *http.Request) error {
	if !onLoopback(r.Context()) {
		return nil
	}
	if !isLoopback(r.Host) {
		return dayfly.Errorf(dayfly.Denied, "host %q is not a loopback name: use localhost or 127.0.0.1", r.Host)
	}
	if err := sameOrigin.Check(r); err != nil {
		return dayfly.Errorf(dayfly.Denied, "requests from web pages of another origin are denied")
	}
	return nil
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
