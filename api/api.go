// Package api is HTTP in: the routes of openapi.yaml, JSON with unknown fields
// refused, one table from kinds of error to statuses, and the in-guest API of
// each workspace passed through.
//
// It decides nothing about workspaces, images, kernels or the host: it states
// what it needs of them as interfaces. Always true: a body is bounded or
// streamed, never gathered; what a guest answers is streamed and its headers
// are bounded; a cause that is not meant for callers is logged and never sent.
package api

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/dayfly/dayfly"
)

// Options are what a Server is made of. All but Workspaces may be nil where a
// server does not offer them; their routes answer unavailable.
type Options struct {
	Workspaces Workspaces
	Snapshots  Snapshots
	Guests     Guests
	Images     Images
	Kernels    Kernels
	Host       HostChecks
	System     System
	Log        *slog.Logger // nil: nothing is logged

	// Loopback is for servers on a loopback TCP address, which any web page in
	// a local browser can reach: requests made for another host name (DNS
	// rebinding) or by a page of another origin are denied.
	Loopback bool
}

// Server answers requests. It may serve any number at the same time.
type Server struct {
	o       Options
	log     *slog.Logger
	mux     *http.ServeMux
	guests  *guests
	handler http.Handler
}

// New makes a Server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Log, mux: http.NewServeMux()}
	s.guests = newGuests(o.Guests)
	HandlerWithOptions(routes{s}, StdHTTPServerOptions{
		BaseRouter: s.mux,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			s.refuse(w, r, dayfly.Errorf(dayfly.Invalid, "request: %w", err))
		},
	})
	s.mux.HandleFunc("/v1/workspaces/{id}/guest/{path...}", s.guest)
	s.handler = http.HandlerFunc(s.route)
	if o.Loopback {
		s.handler = s.loopback(s.handler)
	}
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Close lets go of idle connections to guests. Requests under way go on.
func (s *Server) Close() error {
	s.guests.close()
	return nil
}

// routes carries the generated interface's methods, so that Server's own stay few.
type routes struct{ *Server }

var _ ServerInterface = routes{}

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
	s.answer(w, r, c.status, e)
}

// capture keeps the status and headers of a reply and drops its body.
type capture struct {
	header http.Header
	status int
}

func (c *capture) Header() http.Header         { return c.header }
func (c *capture) WriteHeader(status int)      { c.status = status }
func (c *capture) Write(p []byte) (int, error) { return len(p), nil }

// loopback denies what a web page could have sent.
func (s *Server) loopback(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(r.Host) {
			s.refuse(w, r, dayfly.Errorf(dayfly.Denied, "host %q is not a loopback name: use localhost or 127.0.0.1", r.Host))
			return
		}
		if err := sameOrigin.Check(r); err != nil {
			s.refuse(w, r, dayfly.Errorf(dayfly.Denied, "requests from web pages of another origin are denied"))
			return
		}
		next.ServeHTTP(w, r)
	})
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
