package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Bounds on what is kept for, and taken from, one guest.
const (
	maxGuestHeader = 64 << 10        // bytes of a reply's headers; a body is only ever streamed
	maxGuestIdle   = 4               // idle connections
	guestIdle      = time.Second     // an open connection counts as a use of the workspace
	guestKept      = 3 * time.Minute // an unused transport
)

// guestRoutes are what callers may reach of the in-guest API; a name that ends
// in a slash stands for all below it. A list of what is allowed, not of what is
// refused: a new route for the host alone is refused without being named here.
var guestRoutes = []string{
	"health", "metrics", "envs", "files", "files/compose",
	"process.Process/", "filesystem.Filesystem/",
}

// guestOnlyHeaders mean something for a whole web origin, which is ours and not
// the guest's.
var guestOnlyHeaders = []string{
	"Set-Cookie", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", "Service-Worker-Allowed", "Nel", "Report-To",
	"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods",
}

var errNoGuests = lacking("ways into workspaces")

// guest passes a request to the in-guest API of a workspace and the reply back,
// streaming both ways.
func (s *Server) guest(w http.ResponseWriter, r *http.Request) {
	path := r.PathValue("path")
	var id dayfly.ID
	var err error
	switch {
	case s.o.Guests == nil:
		err = errNoGuests
	case !mayReach(path):
		err = dayfly.Errorf(dayfly.Denied, "/%s is not a route of the in-guest API that callers may use", path)
	default:
		id, err = s.resolve(r, r.PathValue("id"))
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.pass(w, r, passage{id: id, path: path, method: r.Method, query: r.URL.RawQuery})
}

// passage is a request to the in-guest API of a workspace, as the guest gets it.
type passage struct {
	id                  dayfly.ID
	path, method, query string
	modify              func(*http.Response) error // may be nil
}

// pass hands r's body to a guest and its reply back.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, to passage) {
	// Without full duplex Go's server stops reading a request once its reply
	// has begun, which cuts Connect streams at random (golang/go#40747).
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	body := &inbound{ReadCloser: r.Body, rc: rc}
	if r.ContentLength != 0 {
		r.Body = body
	} else {
		body.ended = true
	}
	s.proxy(to, body).ServeHTTP(w, r)
}

func mayReach(path string) bool {
	for _, route := range guestRoutes {
		method, below := strings.CutPrefix(path, route)
		switch {
		case !strings.HasSuffix(route, "/"):
			if path == route {
				return true
			}
		case below:
			// What follows is a method's name, nothing that a guest's router
			// could take for a way back up.
			return method != "" && !strings.ContainsAny(method, "/.\\%")
		}
	}
	return false
}

func (s *Server) proxy(to passage, body *inbound) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		FlushInterval: -1, // at once
		Transport:     s.guests.transport(to.id),
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.Method = to.method
			p.Out.URL.Scheme, p.Out.URL.Host = "http", string(to.id)
			p.Out.URL.Path, p.Out.URL.RawPath, p.Out.URL.RawQuery = "/"+to.path, "", to.query
			p.Out.Host = "localhost"
			for _, h := range []string{"Connection", "Upgrade", "Expect"} {
				p.Out.Header.Del(h)
			}
			conceal(p.Out.Header, p.Out.URL)
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode == http.StatusSwitchingProtocols {
				return errors.New("a change of protocol nobody asked for")
			}
			if to.modify != nil {
				if err := to.modify(resp); err != nil {
					return err
				}
			}
			for _, h := range guestOnlyHeaders {
				resp.Header.Del(h)
			}
			// A page from a guest, opened in a browser, must not act as ours.
			resp.Header.Set("Content-Security-Policy", "sandbox")
			resp.Header.Set("X-Content-Type-Options", "nosniff")
			if !body.atEnd() {
				// What is left of the body must not be read as a next request.
				resp.Header.Set("Connection", "close")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			_ = body.Close() // the transport may still be reading it (golang/go#68560)
			w.Header().Set("Connection", "close")
			s.refuseGuest(w, r, to.id, err)
		},
	}
}

// refuseGuest answers for a guest that did not. What it said instead is logged,
// quoted, and not sent.
func (s *Server) refuseGuest(w http.ResponseWriter, r *http.Request, id dayfly.ID, err error) {
	var e *dayfly.Error
	if errors.As(err, &e) {
		s.refuse(w, r, err)
		return
	}
	s.refuse(w, r, unusable(id, err))
}

// inbound is a request body that can be closed while it is being read. The
// server's own waits for a Read under way, which may wait for the caller for ever.
type inbound struct {
	io.ReadCloser
	rc *http.ResponseController

	mu    sync.Mutex
	ended bool
}

func (b *inbound) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
	}
	return n, err
}

// Close makes reads under way and to come fail, unless all has been read. The
// server closes the body itself once the handler has returned.
func (b *inbound) Close() error {
	if b.atEnd() {
		return nil
	}
	return b.rc.SetReadDeadline(time.Unix(1, 0))
}

func (b *inbound) atEnd() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended
}

// guests holds one transport for each workspace that was talked to, so that no
// connection is ever used for another workspace than the one it was opened for.
type guests struct {
	dialer Guests

	mu sync.Mutex
	of map[dayfly.ID]*guestTransport
}

type guestTransport struct {
	*http.Transport
	used time.Time
}

func newGuests(d Guests) *guests { return &guests{dialer: d, of: map[dayfly.ID]*guestTransport{}} }

func (g *guests) transport(id dayfly.ID) *http.Transport {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.of[id]
	if t == nil {
		g.sweep()
		t = &guestTransport{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return g.dialer.Dial(ctx, id, wire.AgentPort)
			},
			DisableCompression:     true, // bytes pass as they are
			MaxIdleConnsPerHost:    maxGuestIdle,
			IdleConnTimeout:        guestIdle,
			MaxResponseHeaderBytes: maxGuestHeader,
		}}
		g.of[id] = t
	}
	t.used = time.Now()
	return t.Transport
}

// sweep drops transports unused for so long that they hold no connection, of
// workspaces that ended without our being told. The caller holds mu.
func (g *guests) sweep() {
	for id, t := range g.of {
		if time.Since(t.used) > guestKept {
			t.CloseIdleConnections()
			delete(g.of, id)
		}
	}
}

// forget drops the connections to a workspace that are not in use.
func (g *guests) forget(id dayfly.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.of[id]; t != nil {
		t.CloseIdleConnections()
		delete(g.of, id)
	}
}

func (g *guests) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, t := range g.of {
		t.CloseIdleConnections()
		delete(g.of, id)
	}
}
