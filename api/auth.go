package api

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// Routes that are not in the generated code, and those that are named here.
const (
	guestRoute   = "/v1/workspaces/{id}/guest/{path...}"
	execRoute    = "GET /v1/workspaces/{id}/exec"
	metricsRoute = "GET /metrics"
)

// open are the routes for which nobody has to show a key.
var open = map[string]bool{
	"GET /healthz": true, "GET /readyz": true, "GET /docs": true, "GET /v1/openapi.json": true,
}

// forAdmins are the routes that manage the host and its callers.
var forAdmins = map[string]bool{
	"POST /v1/images/pull": true, "POST /v1/images/import": true, "POST /v1/images/build": true, "DELETE /v1/images/{name}": true,
	"POST /v1/kernels/import": true, "POST /v1/kernels/build": true,
	"GET /v1/host": true, "GET /v1/system/usage": true, "POST /v1/system/prune": true,
	"POST /v1/keys": true, "DELETE /v1/keys/{key}": true,
	"GET /v1/namespaces": true, "POST /v1/namespaces": true, "GET /v1/namespaces/{namespace}": true,
	"PUT /v1/namespaces/{namespace}": true, "DELETE /v1/namespaces/{namespace}": true,
	"GET /v1/audit": true, metricsRoute: true,
}

// forTokens are the routes that use a workspace and do not manage it.
var forTokens = map[string]bool{
	"GET /v1/workspaces/{id}": true, "POST /v1/workspaces/{id}/keepalive": true,
	"GET /v1/workspaces/{id}/metrics": true, "GET /v1/workspaces/{id}/logs": true,
	"POST /v1/workspaces/{id}/exec": true, execRoute: true,
	"GET /v1/workspaces/{id}/processes": true, "POST /v1/workspaces/{id}/processes/{pid}/signal": true,
	"GET /v1/workspaces/{id}/files": true, "PUT /v1/workspaces/{id}/files": true,
	"POST /v1/workspaces/{id}/files": true, "DELETE /v1/workspaces/{id}/files": true,
	guestRoute: true, "GET /v1/version": true,
}

// What is shown begins with one of these.
const (
	keyPrefix   = "dfk_"
	tokenPrefix = "dft_"
)

// socketProtocol is ours over a WebSocket.
const socketProtocol = "dayfly.v1"

const (
	protocolHeader  = "Sec-WebSocket-Protocol"
	namespaceHeader = "Dayfly-Namespace"
	keyHeader       = "X-API-Key"
)

// credential returns what a request shows. Where browsers can put it, which is
// also where logs of proxies hold it, only a workspace token is taken.
func credential(r *http.Request) (string, error) {
	if v := r.Header.Get(keyHeader); v != "" {
		return v, nil
	}
	if scheme, v, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(v), nil
	}
	for _, v := range append(protocols(r.Header), r.URL.Query()["token"]...) {
		switch {
		case strings.HasPrefix(v, tokenPrefix):
			return v, nil
		case strings.HasPrefix(v, keyPrefix):
			return "", withStatus(http.StatusUnauthorized, dayfly.Errorf(dayfly.Denied, "an API key does not belong into an address, which is kept in logs: send a workspace token there, or the key as a header; and revoke this key"))
		}
	}
	return "", nil
}

// protocols are those that a WebSocket's caller offers.
func protocols(h http.Header) []string {
	var list []string
	for _, line := range h.Values(protocolHeader) {
		for _, p := range strings.Split(line, ",") {
			list = append(list, strings.TrimSpace(p))
		}
	}
	return list
}

// conceal takes what a request showed out of what goes to a guest, who is not
// to have it.
func conceal(h http.Header, u *url.URL) {
	h.Del(keyHeader)
	h.Del(namespaceHeader)
	h.Del(protocolHeader)
	if scheme, _, _ := strings.Cut(h.Get("Authorization"), " "); !strings.EqualFold(scheme, "Basic") {
		h.Del("Authorization")
	}
	if q := u.Query(); strings.HasPrefix(q.Get("token"), tokenPrefix) {
		q.Del("token")
		u.RawQuery = q.Encode()
	}
}

// enter lets a request in as its caller, if it may.
func (s *Server) enter(w http.ResponseWriter, r *http.Request, x *exchange) {
	caller, revoked, err := s.admit(r, x)
	x.caller = caller
	if err == nil {
		err = mayUse(caller, x.route)
	}
	if err == nil {
		err = checkQuery(r, x.route)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	r = r.WithContext(dayfly.WithCaller(r.Context(), caller))
	if revoked != nil {
		ctx, stop := untilRevoked(r.Context(), http.NewResponseController(w), revoked)
		defer stop()
		r = r.WithContext(ctx)
	}
	if endless(r) {
		ctx, stop := s.untilDrained(r.Context())
		defer stop()
		r = r.WithContext(ctx)
	}
	x.req = r
	s.route(w, r)
}

// admit says who asks.
func (s *Server) admit(r *http.Request, x *exchange) (dayfly.Caller, <-chan struct{}, error) {
	c := dayfly.Caller{From: remote(r), Request: x.id}
	free := open[x.route] || x.route == metricsRoute && s.o.OpenMetrics
	if s.o.Auth == nil {
		x.known = true
		return s.inNamespace(c, r)
	}
	shown, err := credential(r)
	switch {
	case free:
		return c, nil, nil
	case err != nil:
		return c, nil, err
	case shown == "" && isLocal(r.Context()):
		x.known = true
		return s.inNamespace(c, r)
	}
	if wait := s.fails.wait(c.From); wait > 0 {
		e := dayfly.Errorf(dayfly.Exhausted, "too many requests from %s without a valid key", c.From)
		e.RetryAfter = wait
		return c, nil, e
	}
	if shown == "" {
		return c, nil, withStatus(http.StatusUnauthorized, dayfly.Errorf(dayfly.Denied, "no API key: send one as Authorization: Bearer dfk_…"))
	}
	who, revoked, err := s.o.Auth.Authenticate(r.Context(), shown)
	var e *dayfly.Error
	if errors.As(err, &e) && e.Kind == dayfly.Denied {
		s.fails.failed(c.From)
		return c, nil, withStatus(http.StatusUnauthorized, e)
	}
	if err != nil {
		return c, nil, err
	}
	x.known, x.shown = true, true
	who.From, who.Request = c.From, c.Request
	c, _, err = s.inNamespace(who, r)
	return c, revoked, err
}

// inNamespace lets an admin choose a namespace. For others there is just their own.
func (s *Server) inNamespace(c dayfly.Caller, r *http.Request) (dayfly.Caller, <-chan struct{}, error) {
	ns := r.Header.Get(namespaceHeader)
	switch {
	case ns == "", ns == c.Namespace:
		return c, nil, nil
	case !c.Admin():
		return c, nil, dayfly.Errorf(dayfly.NotFound, "there is no namespace %q", ns)
	}
	if err := dayfly.CheckNamespace(ns); err != nil {
		return c, nil, err
	}
	c.Namespace = ns
	return c, nil, nil
}

// mayUse refuses what is not for a caller, whatever it names.
func mayUse(c dayfly.Caller, route string) error {
	switch {
	case route == "" || open[route]:
		return nil
	case c.Workspace != "" && !forTokens[route]:
		return dayfly.Errorf(dayfly.Denied, "a workspace token is for the use of one workspace: this needs an API key")
	case forAdmins[route] && !c.Admin():
		return dayfly.Errorf(dayfly.Denied, "this is for admins: the key is bound to the namespace %s", c.Namespace)
	}
	return nil
}

// within returns the namespace that a request asks for: what it names, or else
// what its caller is bound to or has chosen. "" is all.
func within(ctx context.Context, named string) (string, error) {
	c := dayfly.CallerOf(ctx)
	switch {
	case named == "" || named == c.Namespace:
		return c.Namespace, nil
	case !c.Admin():
		return "", dayfly.Errorf(dayfly.NotFound, "there is no namespace %q", named)
	}
	return named, dayfly.CheckNamespace(named)
}

// lastWords is how long a caller takes for what was on its way to it when its
// key was revoked.
const lastWords = 5 * time.Second

// untilRevoked returns a context that ends with a key. Reads and writes that
// wait for the caller end too. stop must be called before the handler returns.
func untilRevoked(parent context.Context, rc *http.ResponseController, revoked <-chan struct{}) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-revoked:
			cancel(errRevoked)
			_ = rc.SetReadDeadline(time.Unix(1, 0))
			_ = rc.SetWriteDeadline(time.Now().Add(lastWords))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// remote is the address of a request's sender, without its port.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || host == "" {
		return "local"
	}
	return host
}

// basic is the header that names a user to the in-guest API.
func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))
}
