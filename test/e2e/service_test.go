package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
)

// caller speaks HTTP to a server as anybody can: no client of ours in between.
type caller struct {
	http *http.Client
	base string
	key  string
}

// raw returns a caller through the server's private socket: the host's own user.
func (s *server) raw() *caller {
	path := strings.TrimPrefix(s.host, "unix://")
	return &caller{base: "http://localhost", http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true, // a server that was killed leaves nothing to reuse
	}}}
}

// answer is a reply as it came.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do makes a request. No answer at all is an error.
func (c *caller) do(ctx context.Context, method, path string, body any, headers ...string) (a answer, err error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return a, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return a, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.body, err = io.ReadAll(resp.Body)
	a.status, a.header = resp.StatusCode, resp.Header
	return a, err
}

// must is do for what has to be answered with a status; into takes the body.
func (c *caller) must(t *testing.T, status int, method, path string, body, into any, headers ...string) answer {
	t.Helper()
	a, err := c.do(t.Context(), method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != status {
		t.Fatalf("%s %s = %d, want %d: %s", method, path, a.status, status, a.body)
	}
	if into != nil {
		if err := json.Unmarshal(a.body, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, a.body)
		}
	}
	return a
}

// problem is what an error looks like (RFC 9457).
type problem struct {
	Type, Title, Detail, Kind, Stage, Remedy string
	Status                                   int
}

func (c *caller) refused(t *testing.T, status int, kind words.Kind, method, path string, body any) problem {
	t.Helper()
	var p problem
	a := c.must(t, status, method, path, body, &p)
	if p.Kind != string(kind) || p.Status != status || p.Detail == "" || p.Remedy == "" || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s: %s: %s", method, path, a.header.Get("Content-Type"), a.body)
	}
	return p
}

// small is a workspace that costs little.
func small(more map[string]any) map[string]any {
	spec := map[string]any{"image": "base", "disk_mib": 256}
	for k, v := range more {
		spec[k] = v
	}
	return spec
}

// TestWholeLifeByPlainHTTP takes one workspace through everything.
func TestWholeLifeByPlainHTTP(t *testing.T) {
	t.Parallel()
	s := serve(t, newState(t))
	c := s.raw()
	var ws words.Workspace
	a := c.must(t, http.StatusCreated, "POST", "/v1/workspaces", small(map[string]any{
		"name": "life", "metadata": map[string]string{"team": "a"}, "command": []string{"sh", "-c", "echo up; exec sleep 1000"},
		"ready": map[string]any{"command": []string{"test", "-d", "/proc/1"}},
	}), &ws, "Idempotency-Key", "one")
	if ws.State != words.Running || !ws.Ready || ws.Namespace != words.DefaultNamespace || a.header.Get("Server-Timing") == "" {
		t.Errorf("created: %s", a.body)
	}
	var again words.Workspace
	c.must(t, http.StatusCreated, "POST", "/v1/workspaces", small(map[string]any{
		"name": "life", "metadata": map[string]string{"team": "a"}, "command": []string{"sh", "-c", "echo up; exec sleep 1000"},
		"ready": map[string]any{"command": []string{"test", "-d", "/proc/1"}},
	}), &again, "Idempotency-Key", "one")
	if again.ID != ws.ID {
		t.Errorf("the same request made %s and %s", ws.ID, again.ID)
	}
	at := "/v1/workspaces/" + string(ws.ID)
	var run struct {
		ExitCode       int `json:"exit_code"`
		Stdout, Stderr string
	}
	c.must(t, http.StatusOK, "POST", "/v1/workspaces/life/exec", map[string]any{
		"command": []string{"sh", "-c", "cat; echo $COLOUR; pwd; exit 3"}, "stdin": "in\n", "env": map[string]string{"COLOUR": "red"}, "cwd": "/tmp",
	}, &run)
	if run.ExitCode != 3 || run.Stdout != "in\nred\n/tmp\n" {
		t.Errorf("exec: %+v", run)
	}
	var page words.Page
	c.must(t, http.StatusOK, "GET", "/v1/workspaces?metadata=team%3Da&state=running", nil, &page)
	if len(page.Workspaces) != 1 || page.Workspaces[0].ID != ws.ID {
		t.Errorf("list: %+v", page)
	}
	if a := c.must(t, http.StatusOK, "GET", at+"/logs?source=command", nil, nil); !strings.Contains(string(a.body), "up") {
		t.Errorf("log: %s", a.body)
	}
	var m words.Metrics
	if c.must(t, http.StatusOK, "GET", at+"/metrics", nil, &m); m.MemoryUsed <= 0 || m.HostMemory <= 0 {
		t.Errorf("metrics: %+v", m)
	}
	for _, step := range []struct {
		verb string
		want words.State
	}{{"pause", words.Paused}, {"resume", words.Running}, {"restart", words.Running}, {"stop", words.Stopped}, {"start", words.Running}} {
		if c.must(t, http.StatusOK, "POST", at+"/"+step.verb, nil, &ws); ws.State != step.want {
			t.Fatalf("%s: it is %s", step.verb, ws.State)
		}
	}
	c.refused(t, http.StatusConflict, words.Conflict, "POST", at+"/resume", nil)
	c.refused(t, http.StatusBadRequest, words.Invalid, "POST", "/v1/workspaces", map[string]any{"image": "base", "colour": 1})
	c.must(t, http.StatusNoContent, "DELETE", at, nil, nil)
	c.refused(t, http.StatusNotFound, words.NotFound, "GET", at, nil)
	var events struct{ Events []words.Event }
	c.must(t, http.StatusOK, "GET", "/v1/events?workspace="+string(ws.ID), nil, &events)
	if n := len(events.Events); n < 8 || events.Events[0].Type != words.WorkspaceCreated || events.Events[n-1].Type != words.WorkspaceDeleted {
		t.Errorf("events: %+v", events)
	}
}

// namespace makes one with limits, and returns a caller that is bound to it.
func (c *caller) namespace(t *testing.T, s *server, name string, limits words.Limits) *caller {
	t.Helper()
	c.must(t, http.StatusCreated, "POST", "/v1/namespaces", map[string]any{"name": name, "limits": limits}, nil)
	var made struct{ Secret string }
	c.must(t, http.StatusCreated, "POST", "/v1/keys", map[string]any{"name": name, "namespace": name}, &made)
	return &caller{http: http.DefaultClient, base: s.tcp(t), key: made.Secret}
}

func TestNamespacesCannotSeeEachOther(t *testing.T) {
	t.Parallel()
	s := serve(t, newState(t), "--listen", "127.0.0.1:0")
	admin := s.raw()
	a, b := admin.namespace(t, s, "red", words.Limits{}), admin.namespace(t, s, "blue", words.Limits{})
	var ws words.Workspace
	a.must(t, http.StatusCreated, "POST", "/v1/workspaces", small(map[string]any{"name": "secret"}), &ws)
	at := "/v1/workspaces/" + string(ws.ID)
	for _, r := range []struct{ method, path string }{
		{"GET", at}, {"GET", "/v1/workspaces/secret"}, {"DELETE", at}, {"POST", at + "/stop"}, {"POST", at + "/pause"}, {"POST", at + "/fork"},
		{"POST", at + "/snapshots"}, {"GET", at + "/logs"}, {"GET", at + "/metrics"}, {"GET", at + "/guest/health"}, {"POST", at + "/keepalive"},
	} {
		b.refused(t, http.StatusNotFound, words.NotFound, r.method, r.path, nil)
	}
	for _, path := range []string{"/v1/workspaces", "/v1/workspaces?namespace=red", "/v1/events", "/v1/events?workspace=" + string(ws.ID)} {
		got, err := b.do(t.Context(), "GET", path, nil)
		if err != nil || bytes.Contains(got.body, []byte(ws.ID)) || bytes.Contains(got.body, []byte("secret")) {
			t.Errorf("%s shows it: %s (%v)", path, got.body, err)
		}
	}
	nobody := &caller{http: http.DefaultClient, base: s.tcp(t)}
	for _, key := range []string{"", "dfk_x", "dfk_" + strings.Repeat("a", 60), a.key + "x"} {
		nobody.key = key
		if got, err := nobody.do(t.Context(), "GET", "/v1/workspaces", nil); err != nil || got.status != http.StatusUnauthorized {
			t.Errorf("with key %q: %d (%v)", key, got.status, err)
		}
	}
	a.must(t, http.StatusNoContent, "DELETE", at, nil, nil)
}

// TestFiftyCreatesAtOnceStayWithinTheQuota, whatever their order.
func TestFiftyCreatesAtOnceStayWithinTheQuota(t *testing.T) { //nolint:paralleltest // as many machines as it starts are enough for one host
	s := serve(t, newState(t), "--listen", "127.0.0.1:0")
	c := s.raw().namespace(t, s, "few", words.Limits{Running: 3})
	var wg sync.WaitGroup
	answers := make([]answer, 50)
	for i := range answers {
		wg.Go(func() { answers[i], _ = c.do(t.Context(), "POST", "/v1/workspaces", small(nil)) })
	}
	wg.Wait()
	made, over := 0, 0
	for _, a := range answers {
		switch a.status {
		case http.StatusCreated:
			made++
		case http.StatusTooManyRequests, http.StatusInsufficientStorage:
			over++
		default:
			t.Errorf("%d: %s", a.status, a.body)
		}
	}
	if made != 3 || over != 47 {
		t.Errorf("%d were made, %d refused", made, over)
	}
	var q words.Quota
	if c.must(t, http.StatusOK, "GET", "/v1/quota", nil, &q); q.Used.Running != 3 || q.Used.Workspaces != 3 {
		t.Errorf("quota: %+v", q)
	}
}

// load makes and deletes workspaces until its context ends, and knows what was
// acknowledged.
type load struct {
	mu      sync.Mutex
	made    map[words.ID]bool // acknowledged, and no deletion of it was asked for
	unsure  map[words.ID]bool // a deletion was asked for and not acknowledged
	deleted map[words.ID]bool
}

func (l *load) run(ctx context.Context, c *caller, n int) {
	for i := 0; ctx.Err() == nil; i++ {
		how := []string{"", "?wait=created"}[i%2]
		a, err := c.do(ctx, "POST", "/v1/workspaces"+how, small(nil), "Idempotency-Key", fmt.Sprintf("%d-%d-%d", n, i, rand.Int64()))
		var ws words.Workspace
		if err != nil || a.status/100 != 2 || json.Unmarshal(a.body, &ws) != nil {
			continue
		}
		l.mu.Lock()
		l.made[ws.ID] = true
		old := words.ID("")
		for id := range l.made {
			if len(l.made) > 2 {
				old = id
				delete(l.made, id)
				l.unsure[id] = true
			}
			break
		}
		l.mu.Unlock()
		if old == "" {
			continue
		}
		a, err = c.do(ctx, "DELETE", "/v1/workspaces/"+string(old), nil)
		if err == nil && (a.status == http.StatusNoContent || a.status == http.StatusNotFound) {
			l.mu.Lock()
			delete(l.unsure, old)
			l.deleted[old] = true
			l.mu.Unlock()
		}
	}
}

// TestServerKilledUnderLoadKeepsWhatItAcknowledged: twenty times, at random
// moments of creates and deletes. What was acknowledged is there, what was
// deleted is gone, and no process, file or unit of a quota is left over.
func TestServerKilledUnderLoadKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serveOn(t, state)
	l := &load{made: map[words.ID]bool{}, unsure: map[words.ID]bool{}, deleted: map[words.ID]bool{}}
	for round := range rounds(20) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for n := range 2 {
			wg.Go(func() { l.run(ctx, s.raw(), n) })
		}
		lines := 3 + rand.IntN(60) // of the log: a moment that does not depend on how fast this host is
		for mark := s.mark(); lines > 0 && s.logged(mark, func(string) bool { return true }); lines-- {
			mark++
		}
		s.kill(t)
		cancel()
		wg.Wait()
		s = serveOn(t, state)
		l.check(t, s, round)
	}
}

// rounds is fewer where little time was given.
func rounds(n int) int {
	if testing.Short() {
		return 3
	}
	return n
}

// runs waits until a workspace that is being made runs.
func (s *server) runs(t *testing.T, id words.ID) {
	t.Helper()
	for ev, err := range s.Events.Follow(t.Context(), words.EventQuery{Workspace: id}) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.State != words.Creating {
			break
		}
	}
	if st := s.isIn(t, id); st != words.Running {
		t.Errorf("%s is %s", id, st)
	}
}

func (l *load) check(t *testing.T, s *server, round int) {
	t.Helper()
	c := s.raw()
	var page words.Page
	c.must(t, http.StatusOK, "GET", "/v1/workspaces?limit=1000", nil, &page)
	listed := map[words.ID]words.State{}
	for _, ws := range page.Workspaces {
		listed[ws.ID] = ws.State
	}
	for id := range l.made {
		if st := listed[id]; st == "" || st == words.Failed {
			t.Errorf("round %d: %s was acknowledged and is %q", round, id, st)
		}
	}
	for id := range l.deleted {
		if listed[id] != "" {
			t.Errorf("round %d: %s was deleted and is %s", round, id, listed[id])
		}
	}
	// What nobody knows of goes, and what is left must be all there is.
	for id := range listed {
		if l.made[id] {
			continue
		}
		a, err := c.do(t.Context(), "DELETE", "/v1/workspaces/"+string(id), nil)
		if err != nil || a.status != http.StatusNoContent && a.status != http.StatusNotFound { // its deletion may have been under way
			t.Errorf("round %d: delete = %d: %s (%v)", round, a.status, a.body, err)
		}
	}
	clear(l.unsure)
	for id := range l.made {
		s.runs(t, id)
	}
	var q words.Quota
	c.must(t, http.StatusOK, "GET", "/v1/quota", nil, &q)
	if q.Used.Workspaces != len(l.made) || q.Used.Running != len(l.made) {
		t.Errorf("round %d: %d workspaces, and the quota counts %+v", round, len(l.made), q.Used)
	}
	homes, err := filepath.Glob(filepath.Join(s.state, "workspaces", "*", "record.json")) // a machine that a template is made of has none
	if err != nil || len(homes) != len(l.made) || len(processes(t, s.state)) != len(l.made) {
		t.Errorf("round %d: %d workspaces, %d directories, %d processes (%v)", round, len(l.made), len(homes), len(processes(t, s.state)), err)
	}
	if t.Failed() {
		t.Fatalf("round %d\n%s", round, tailOf(s.log()))
	}
}

// TestCounterGoesOnOverKillAndRestart of the server, without a pause.
func TestCounterGoesOnOverKillAndRestart(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serveOn(t, state)
	id := s.create(t)
	at := s.count(t, id)
	for _, end := range []func(*server, *testing.T){(*server).kill, (*server).stop} {
		end(s, t)
		if n := len(processes(t, state)); n != 1 {
			t.Fatalf("%d VMMs run without the server", n)
		}
		s = serveOn(t, state)
		at = s.goesOn(t, id, at)
	}
	if out := s.must(t, "pause", string(id)); len(out) != 1 {
		t.Errorf("pause said %q", out)
	}
	s.must(t, "resume", string(id))
	s.goesOn(t, id, at)
}
