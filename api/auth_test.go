package api_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/test/fakehost"
)

// site is a server over a fake host that asks for keys.
type site struct {
	t    *testing.T
	host *fakehost.Host
	url  string
}

func newSite(t *testing.T, change ...func(*api.Options)) *site {
	t.Helper()
	h := fakehost.New()
	o := h.ServerOptions()
	for _, f := range change {
		f(&o)
	}
	s := api.New(o)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		_ = h.Close()
		srv.Close()
		_ = s.Close()
	})
	return &site{t, h, srv.URL}
}

// ask is a request by a key.
type ask struct {
	key, method, path, body string
	header                  http.Header
}

// send makes a request whose reply is not read yet.
func (s *site) send(ctx context.Context, a ask) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, a.method, s.url+a.path, strings.NewReader(a.body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range a.header {
		req.Header[k] = v
	}
	if a.key != "" {
		req.Header.Set("Authorization", "Bearer "+a.key)
	}
	if a.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// do makes a request and reads the reply.
func (s *site) do(a ask) (*http.Response, string) {
	s.t.Helper()
	resp := s.send(s.t.Context(), a)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(b)
}

// must makes a request that has to work and decodes the reply.
func must[T any](s *site, a ask) (v T) {
	s.t.Helper()
	resp, body := s.do(a)
	if resp.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %s %s", a.method, a.path, resp.Status, body)
	}
	if body != "" {
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			s.t.Fatal(err)
		}
	}
	return v
}

// bound makes a namespace and a key bound to it.
func (s *site) bound(name string) string {
	s.t.Helper()
	must[dayfly.Namespace](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/namespaces", body: `{"name":"` + name + `"}`})
	return must[api.NewKey](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/keys", body: `{"namespace":"` + name + `"}`}).Secret
}

func (s *site) workspace(key string) dayfly.Workspace {
	s.t.Helper()
	return must[dayfly.Workspace](s, ask{key: key, method: "POST", path: "/v1/workspaces", body: `{"image":"base","user":"root"}`})
}

func TestWithoutAKeyNothingOpens(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ws := s.workspace(fakehost.AdminKey)
	for _, path := range []string{
		"/v1/workspaces", "/v1/workspaces/" + string(ws.ID), "/v1/workspaces/none", "/v1/keys", "/v1/audit", "/v1/version", "/metrics", "/v1/nothing",
	} {
		for _, key := range []string{"", "dfk_admin_wrong", "dft_x", "nonsense"} {
			resp, body := s.do(ask{key: key, method: "GET", path: path})
			if resp.StatusCode != 401 && resp.StatusCode != 429 || !strings.Contains(body, "urn:dayfly:") {
				t.Errorf("%s with key %q: %s %s", path, key, resp.Status, body)
			}
			if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: no WWW-Authenticate", path)
			}
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/docs", "/v1/openapi.json"} {
		if resp, body := s.do(ask{method: "GET", path: path}); resp.StatusCode >= 300 {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

func TestKeysMayComeInTwoHeadersAndNeverInAnAddress(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if resp, _ := s.do(ask{method: "GET", path: "/v1/version", header: http.Header{"X-Api-Key": {fakehost.AdminKey}}}); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	if resp, _ := s.do(ask{method: "GET", path: "/v1/version", header: http.Header{"Authorization": {"bearer " + fakehost.AdminKey}}}); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	for _, a := range []ask{
		{method: "GET", path: "/v1/version?token=" + fakehost.AdminKey},
		{method: "GET", path: "/v1/version", header: http.Header{"Sec-Websocket-Protocol": {"dayfly.v1, " + fakehost.AdminKey}}},
	} {
		if resp, body := s.do(a); resp.StatusCode != 401 || !strings.Contains(body, "revoke this key") {
			t.Errorf("%s %s", resp.Status, body)
		}
	}
}

func TestNamespacesDoNotExistForEachOther(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	red, blue := s.bound("red"), s.bound("blue")
	ws := s.workspace(red)
	if ws.Namespace != "red" {
		t.Errorf("it is in %q", ws.Namespace)
	}
	at := "/v1/workspaces/" + string(ws.ID)
	for _, a := range []ask{
		{method: "GET", path: at}, {method: "DELETE", path: at}, {method: "POST", path: at + "/stop"}, {method: "POST", path: at + "/token"},
		{method: "PATCH", path: at, body: `{"name":"x"}`}, {method: "POST", path: at + "/exec", body: `{"shell":"true"}`},
		{method: "GET", path: at + "/files?path=/etc/passwd"}, {method: "GET", path: at + "/guest/health"}, {method: "GET", path: at + "/logs"},
		{method: "GET", path: at + "/metrics"}, {method: "GET", path: "/v1/workspaces?namespace=red"}, {method: "GET", path: "/v1/quota?namespace=red"},
		{method: "GET", path: "/v1/events?namespace=red"}, {method: "GET", path: "/v1/workspaces", header: http.Header{"Dayfly-Namespace": {"red"}}},
	} {
		a.key = blue
		if resp, body := s.do(a); resp.StatusCode != 404 || !strings.Contains(body, `"kind":"not_found"`) {
			t.Errorf("%s %s: %s %s", a.method, a.path, resp.Status, body)
		}
	}
	// A connection that another caller has opened opens nothing either.
	must[struct{}](s, ask{key: red, method: "GET", path: at + "/guest/health"})
	if resp, _ := s.do(ask{key: blue, method: "GET", path: at + "/guest/health"}); resp.StatusCode != 404 {
		t.Error(resp.Status)
	}
	if page := must[dayfly.Page](s, ask{key: blue, method: "GET", path: "/v1/workspaces"}); len(page.Workspaces) != 0 {
		t.Errorf("it sees %v", page.Workspaces)
	}
	for _, path := range []string{"/v1/workspaces?namespace=red", "/v1/workspaces"} {
		if page := must[dayfly.Page](s, ask{key: fakehost.AdminKey, method: "GET", path: path}); len(page.Workspaces) != 1 {
			t.Errorf("%s: an admin sees %v", path, page.Workspaces)
		}
	}
}

func TestAdminsChooseANamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.bound("red")
	h := http.Header{"Dayfly-Namespace": {"red"}}
	ws := must[dayfly.Workspace](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces", body: `{"image":"base"}`, header: h})
	if ws.Namespace != "red" {
		t.Errorf("it is in %q", ws.Namespace)
	}
	if q := must[dayfly.Quota](s, ask{key: fakehost.AdminKey, method: "GET", path: "/v1/quota", header: h}); q.Namespace != "red" || q.Used.Workspaces != 1 {
		t.Errorf("quota %+v", q)
	}
	if resp, _ := s.do(ask{key: fakehost.AdminKey, method: "GET", path: "/v1/workspaces", header: http.Header{"Dayfly-Namespace": {"../x"}}}); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}

func TestBoundKeysManageNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	red := s.bound("red")
	for _, a := range []ask{
		{method: "POST", path: "/v1/images/pull", body: `{"reference":"x"}`}, {method: "DELETE", path: "/v1/images/base"},
		{method: "POST", path: "/v1/kernels/build"}, {method: "GET", path: "/v1/host"}, {method: "POST", path: "/v1/system/prune"},
		{method: "POST", path: "/v1/keys", body: `{}`}, {method: "DELETE", path: "/v1/keys/admin"},
		{method: "GET", path: "/v1/namespaces"}, {method: "DELETE", path: "/v1/namespaces/red"}, {method: "GET", path: "/v1/audit"},
	} {
		a.key = red
		if resp, body := s.do(a); resp.StatusCode != 403 || !strings.Contains(body, `"kind":"denied"`) {
			t.Errorf("%s %s: %s %s", a.method, a.path, resp.Status, body)
		}
	}
	if keys := must[api.KeyList](s, ask{key: red, method: "GET", path: "/v1/keys"}); len(keys.Keys) != 1 || keys.Keys[0].Namespace != "red" {
		t.Errorf("it sees %+v", keys)
	}
}

func TestTokensUseOneWorkspace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ws, other := s.workspace(fakehost.AdminKey), s.workspace(fakehost.AdminKey)
	at := "/v1/workspaces/" + string(ws.ID)
	token := must[dayfly.Token](s, ask{key: fakehost.AdminKey, method: "POST", path: at + "/token", body: `{"life_s":60}`}).Token
	for _, a := range []ask{
		{key: token, method: "GET", path: at}, {key: token, method: "POST", path: at + "/keepalive"},
		{method: "GET", path: at + "/metrics?token=" + token},
		{method: "GET", path: at + "/logs", header: http.Header{"Sec-Websocket-Protocol": {"dayfly.v1", token}}},
	} {
		if resp, body := s.do(a); resp.StatusCode != 200 {
			t.Errorf("%s %s: %s %s", a.method, a.path, resp.Status, body)
		}
	}
	for path, status := range map[string]int{
		"DELETE " + at: 403, "POST " + at + "/stop": 403, "POST " + at + "/token": 403, "POST " + at + "/fork": 403,
		"GET /v1/workspaces": 403, "GET /v1/keys": 403, "GET /v1/events": 403, "GET /v1/snapshots": 403,
		"GET /v1/workspaces/" + string(other.ID): 404, "GET /v1/workspaces/" + string(other.ID) + "/guest/health": 404,
	} {
		method, at, _ := strings.Cut(path, " ")
		if resp, body := s.do(ask{key: token, method: method, path: at}); resp.StatusCode != status {
			t.Errorf("%s: %s %s, want %d", path, resp.Status, body, status)
		}
	}
	for _, life := range []string{"0", "-1", "86401"} {
		if resp, _ := s.do(ask{key: fakehost.AdminKey, method: "POST", path: at + "/token", body: `{"life_s":` + life + `}`}); resp.StatusCode != 400 {
			t.Errorf("life of %s s: %s", life, resp.Status)
		}
	}
}

func TestGuestsNeverSeeKeys(t *testing.T) {
	t.Parallel()
	seen := make(chan *http.Request, 1)
	guest := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r }))
	defer guest.Close()
	s := newSite(t, func(o *api.Options) { o.Guests = dialer(guest.Listener.Addr().String()) })
	ws := s.workspace(fakehost.AdminKey)
	at := "/v1/workspaces/" + string(ws.ID)
	token := must[dayfly.Token](s, ask{key: fakehost.AdminKey, method: "POST", path: at + "/token"}).Token
	basic := "Basic cm9vdDo="
	for _, a := range []ask{
		{key: fakehost.AdminKey, method: "GET", path: at + "/guest/health"},
		{method: "GET", path: at + "/guest/health", header: http.Header{"X-Api-Key": {fakehost.AdminKey}, "Authorization": {basic}, "Dayfly-Namespace": {"default"}}},
		{method: "GET", path: at + "/guest/health?a=b&token=" + token},
		{method: "GET", path: at + "/guest/health", header: http.Header{"Sec-Websocket-Protocol": {"dayfly.v1, " + token}}},
		{key: fakehost.AdminKey, method: "GET", path: at + "/files?path=/x"},
	} {
		s.do(a)
		r := <-seen
		var b strings.Builder
		_ = r.Header.Write(&b)
		if all := r.RequestURI + b.String(); strings.Contains(all, "dfk_") || strings.Contains(all, "dft_") || r.Header.Get("Dayfly-Namespace") != "" {
			t.Errorf("%s: the guest sees %s", a.path, all)
		}
		if a.header.Get("Authorization") == basic && r.Header.Get("Authorization") != basic {
			t.Errorf("the guest does not see the user: %v", r.Header)
		}
	}
}

type dialer string

func (d dialer) Dial(ctx context.Context, _ dayfly.ID, _ uint16) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", string(d))
}

func TestRevokedKeyEndsItsStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := must[api.NewKey](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/keys", body: `{"name":"short"}`})
	ws := s.workspace(fakehost.AdminKey)
	at := "/v1/workspaces/" + string(ws.ID)
	events := http.Header{"Accept": {"text/event-stream"}}
	var open []*http.Response
	for _, a := range []ask{
		{path: "/v1/events", header: events}, {path: at + "/logs?follow=true", header: events}, {path: at + "/logs?follow=true"},
		{path: at + "/metrics?interval=3600", header: events},
	} {
		a.key, a.method = made.Secret, "GET"
		resp := s.send(t.Context(), a)
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %s", a.path, resp.Status)
		}
		open = append(open, resp)
	}
	must[struct{}](s, ask{key: fakehost.AdminKey, method: "DELETE", path: "/v1/keys/" + made.Key.ID})
	for i, resp := range open {
		b, _ := io.ReadAll(resp.Body) // which would not end
		if i != 2 && !strings.Contains(string(b), "the key was revoked") {
			t.Errorf("stream %d ended with %s", i, b)
		}
	}
	if resp, _ := s.do(ask{key: made.Secret, method: "GET", path: "/v1/version"}); resp.StatusCode != 401 {
		t.Error(resp.Status)
	}
}

func TestGuessingIsSlow(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const tries = 100
	refused := 0
	for range tries {
		resp, _ := s.do(ask{key: "dfk_admin_guess", method: "GET", path: "/v1/version"})
		switch {
		case resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "":
			refused++
		case resp.StatusCode != 401:
			t.Fatal(resp.Status)
		}
	}
	if refused < tries/2 {
		t.Errorf("%d of %d guesses were refused", refused, tries)
	}
}

func TestLocalConnectionsNeedNoKey(t *testing.T) {
	t.Parallel()
	h := fakehost.New()
	srv := httptest.NewUnstartedServer(api.New(h.ServerOptions()))
	srv.Config.BaseContext = func(net.Listener) context.Context { return api.TrustLocal(context.Background()) }
	srv.Start()
	defer srv.Close()
	defer h.Close()
	s := &site{t, h, srv.URL}
	if ws := s.workspace(""); ws.Namespace != dayfly.DefaultNamespace {
		t.Errorf("%+v", ws)
	}
	must[api.NamespaceList](s, ask{method: "GET", path: "/v1/namespaces"})
	// A key that is shown counts all the same.
	if resp, _ := s.do(ask{key: s.bound("red"), method: "GET", path: "/v1/namespaces"}); resp.StatusCode != 403 {
		t.Error(resp.Status)
	}
	if resp, _ := s.do(ask{key: "dfk_x_y", method: "GET", path: "/v1/namespaces"}); resp.StatusCode != 401 {
		t.Error(resp.Status)
	}
}

// slowAudit takes its time to write something down.
type slowAudit struct {
	log         api.Audit
	asked, done chan struct{}
}

func (a slowAudit) Audit(ctx context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	return a.log.Audit(ctx, q)
}

func (a slowAudit) AddAudit(ctx context.Context, e dayfly.AuditEntry) {
	a.asked <- struct{}{}
	<-a.done
	a.log.AddAudit(ctx, e)
}

// TestNobodyIsAnsweredBeforeAChangeIsWrittenDown: whole answers, streams, and
// what is answered on a connection that was taken over.
func TestNobodyIsAnsweredBeforeAChangeIsWrittenDown(t *testing.T) {
	t.Parallel()
	slow := slowAudit{asked: make(chan struct{}), done: make(chan struct{})}
	s := newSite(t, func(o *api.Options) {
		slow.log = o.Audit
		o.Audit = slow
	})
	go func() { <-slow.asked; slow.done <- struct{}{} }()
	ws := must[dayfly.Workspace](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces", body: `{"image":"base"}`})
	at := "/v1/workspaces/" + string(ws.ID)
	exec := `{"command":["echo","a"]}`
	socket := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-WebSocket-Version": {"13"}, "Sec-WebSocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Sec-WebSocket-Protocol": {"dayfly.v1"}}
	for name, a := range map[string]ask{
		"answer":  {method: "POST", path: "/v1/namespaces", body: `{"name":"red"}`},
		"refusal": {method: "POST", path: "/v1/namespaces", body: `{"name":"default"}`},
		"stream":  {method: "POST", path: at + "/exec", body: exec, header: http.Header{"Accept": {"text/event-stream"}}},
		"socket":  {method: "GET", path: at + "/exec", header: socket},
		"guest":   {method: "POST", path: at + "/guest/filesystem.Filesystem/MakeDir", body: `{}`},
	} {
		s.answersAfter(name, a, slow)
	}
	s.answersAfter("nothing", ask{method: "DELETE", path: at}, slow)
}

// answersAfter fails if a request has an answer before it is written down.
func (s *site) answersAfter(name string, a ask, slow slowAudit) {
	s.t.Helper()
	a.key = fakehost.AdminKey
	answered := make(chan int, 1)
	go func() { answered <- s.status(a) }()
	select {
	case <-slow.asked:
	case got := <-answered:
		s.t.Errorf("%s: answered with %d before it is written down", name, got)
		return
	}
	select {
	case got := <-answered:
		s.t.Errorf("%s: answered with %d while it is written down", name, got)
	default:
	}
	slow.done <- struct{}{}
	if got := <-answered; got == 0 {
		s.t.Errorf("%s: no answer", name)
	}
}

// status asks for the head of an answer alone.
func (s *site) status(a ask) int {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, a.method, s.url+a.path, strings.NewReader(a.body))
	if err != nil {
		return 0
	}
	for k, v := range a.header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestEveryChangeIsWrittenDown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	red := s.bound("red")
	ws := must[dayfly.Workspace](s, ask{key: red, method: "POST", path: "/v1/workspaces", body: `{"image":"base","name":"one"}`, header: http.Header{"X-Request-Id": {"my-own.id_1"}}})
	s.do(ask{key: red, method: "GET", path: "/v1/workspaces/one"})
	s.do(ask{key: red, method: "GET", path: "/v1/workspaces"})
	s.do(ask{key: red, method: "POST", path: "/v1/workspaces/one/start"})
	s.do(ask{key: red, method: "POST", path: "/v1/keys", body: `{}`})
	s.do(ask{key: "dfk_x_y", method: "POST", path: "/v1/keys", body: `{}`})
	s.do(ask{key: red, method: "POST", path: "/v1/workspaces/one/guest/filesystem.Filesystem/Remove", body: `{"path":"/tmp/none-such"}`})
	s.do(ask{key: red, method: "POST", path: "/v1/workspaces/one/guest/filesystem.Filesystem/Stat", body: `{}`})
	var got []string
	for _, e := range must[api.AuditList](s, ask{key: fakehost.AdminKey, method: "GET", path: "/v1/audit?namespace=red"}).Entries {
		got = append(got, e.Action+" "+e.Target+" "+http.StatusText(e.Status))
		if e.From != "127.0.0.1" || e.Key == "" || e.Request == "" {
			t.Errorf("entry %+v", e)
		}
		if e.Action == "POST /v1/workspaces" && e.Request != "my-own.id_1" {
			t.Errorf("request %q", e.Request)
		}
	}
	want := []string{
		"POST /v1/workspaces/{id}/guest/filesystem.Filesystem/Remove " + string(ws.ID) + " OK",
		"POST /v1/keys  Forbidden",
		"POST /v1/workspaces/{id}/start " + string(ws.ID) + " Conflict",
		"POST /v1/workspaces " + string(ws.ID) + " Created",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRequestIdsAreSaneOrOurs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, id := range []string{"", "a b", "é", strings.Repeat("x", 65), `x"y`} {
		resp, _ := s.do(ask{method: "GET", path: "/healthz", header: http.Header{"X-Request-Id": {id}}})
		if got := resp.Header.Get("X-Request-Id"); got == id || len(got) < 16 {
			t.Errorf("%q became %q", id, got)
		}
	}
}

func TestRequestsAreMeasuredByRoute(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 8)
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	s := newSite(t, func(o *api.Options) {
		o.Observe = func(route string, status int, _ time.Duration) { seen <- route + " " + http.StatusText(status) }
		o.Metrics = metrics
	})
	for path, want := range map[string]string{
		"/v1/workspaces/x": "GET /v1/workspaces/{id} Not Found", "/v1/nothing": " Not Found", "/metrics": "GET /metrics OK", "/healthz": "GET /healthz No Content",
	} {
		s.do(ask{key: fakehost.AdminKey, method: "GET", path: path})
		if got := <-seen; got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if resp, _ := s.do(ask{key: s.bound("red"), method: "GET", path: "/metrics"}); resp.StatusCode != 403 {
		t.Error(resp.Status)
	}
	open := newSite(t, func(o *api.Options) { o.Metrics, o.OpenMetrics = metrics, true })
	if _, body := open.do(ask{method: "GET", path: "/metrics"}); body != "up 1\n" {
		t.Error(body)
	}
}

func TestSelectionsReachTheServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, meta := range []string{`{"team":"a","x":"1=2"}`, `{"team":"b"}`} {
		must[dayfly.Workspace](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces", body: `{"image":"base","metadata":` + meta + `}`})
	}
	for query, n := range map[string]int{
		"": 2, "metadata=team%3Da": 1, "metadata=team%3Da&metadata=x%3D1%3D2": 1, "metadata=team%3Da&metadata=x%3D2": 0,
		"state=running": 2, "state=paused&state=running": 2, "state=paused": 0, "image=base": 2, "name=x": 0, "limit=1": 1, "order=name": 2,
	} {
		if page := must[dayfly.Page](s, ask{key: fakehost.AdminKey, method: "GET", path: "/v1/workspaces?" + query}); len(page.Workspaces) != n {
			t.Errorf("%s: %d workspaces", query, len(page.Workspaces))
		}
	}
	for _, query := range []string{"status=paused", "Name=x", "limit=0", "limit=1001", "limit=x", "state=asleep", "order=random", "metadata=x", "metadata==y", "cursor=" + strings.Repeat("x", 2000)} {
		if resp, body := s.do(ask{key: fakehost.AdminKey, method: "GET", path: "/v1/workspaces?" + query}); resp.StatusCode != 400 {
			t.Errorf("%s: %s %s", query, resp.Status, body)
		}
	}
	page := must[dayfly.Page](s, ask{key: fakehost.AdminKey, method: "GET", path: "/v1/workspaces?limit=1"})
	next := must[dayfly.Page](s, ask{key: fakehost.AdminKey, method: "GET", path: "/v1/workspaces?limit=1&cursor=" + url.QueryEscape(page.Next)})
	if next.Next != "" || next.Workspaces[0].ID == page.Workspaces[0].ID {
		t.Errorf("pages %+v, %+v", page, next)
	}
}

// TestEveryCreationTakesAnIdempotencyKey and hands it on; what is none is refused
// before anything is made.
func TestEveryCreationTakesAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ws := must[dayfly.Workspace](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces", body: `{"image":"base"}`})
	at := "/v1/workspaces/" + string(ws.ID)
	var want []string
	for path, body := range map[string]string{
		at + "/fork": `{}`, at + "/snapshots": `{}`, "/v1/keys": `{}`, "/v1/namespaces": `{"name":"team"}`, "/v1/webhooks": `{"url":"https://example.com/"}`,
	} {
		do := func(keys ...string) int {
			resp, _ := s.do(ask{key: fakehost.AdminKey, method: "POST", path: path, body: body, header: http.Header{"Idempotency-Key": keys}})
			return resp.StatusCode
		}
		for _, bad := range [][]string{{""}, {"a b"}, {strings.Repeat("x", 256)}, {"a", "b"}} {
			if got := do(bad...); got != 400 {
				t.Errorf("%s with %q: %d", path, bad, got)
			}
		}
		if got := do(path); got != 201 {
			t.Errorf("%s: %d", path, got)
		}
		want = append(want, path)
	}
	if got := s.host.Onces(); !slices.Equal(got, want) {
		t.Errorf("asked for with %q, not %q", got, want)
	}
}

func TestOnceIsOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	once := func(key string) dayfly.ID {
		return must[dayfly.Workspace](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces", body: `{"image":"base"}`, header: http.Header{"Idempotency-Key": {key}}}).ID
	}
	if a, b, c := once("k"), once("k"), once("l"); a != b || a == c {
		t.Error(a, b, c)
	}
	for _, bad := range [][]string{{""}, {"a b"}, {strings.Repeat("x", 256)}, {"a", "b"}} {
		resp, _ := s.do(ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces", body: `{"image":"base"}`, header: http.Header{"Idempotency-Key": bad}})
		if resp.StatusCode != 400 {
			t.Errorf("%q: %s", bad, resp.Status)
		}
	}
	if resp, _ := s.do(ask{key: fakehost.AdminKey, method: "POST", path: "/v1/workspaces?wait=never", body: `{"image":"base"}`}); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}
