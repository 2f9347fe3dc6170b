package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dayfly/dayfly"
)

func TestPausedWorkspaceGoesOn(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	url := base + "/v1/workspaces/" + string(create(t, base).ID)
	for _, step := range []struct {
		path   string
		status int
		holds  string
	}{
		{"/resume", 409, `"kind":"conflict"`},
		{"/pause", 200, `"state":"paused"`},
		{"/pause", 409, "paused cannot become paused"},
		{"/guest/health", 409, "is paused"},
		{"/resume", 200, `"start_kind":"resume"`},
	} {
		resp, body := call(t, "POST", url+step.path, "")
		if resp.StatusCode != step.status || !strings.Contains(body, step.holds) {
			t.Errorf("POST %s: %s %s, want %d holding %s", step.path, resp.Status, body, step.status, step.holds)
		}
		if timing := resp.Header.Get("Server-Timing"); step.path == "/resume" && step.status == 200 && !strings.HasSuffix(timing, `start_kind;desc="resume"`) {
			t.Errorf("Server-Timing = %s", timing)
		}
	}
}

func TestForkAnswersWithEveryCopy(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	id := create(t, base).ID
	for body, want := range map[string]int{"": 1, "{}": 1, `{"count":3}`: 3} {
		resp, reply := call(t, "POST", base+"/v1/workspaces/"+string(id)+"/fork", body)
		var list WorkspaceList
		if err := json.Unmarshal([]byte(reply), &list); err != nil || resp.StatusCode != http.StatusCreated || len(list.Workspaces) != want {
			t.Errorf("fork %s: %s %s %v, want %d copies", body, resp.Status, reply, err, want)
		}
		for _, ws := range list.Workspaces {
			if ws.Parent != string(id) || ws.StartKind != dayfly.Forked {
				t.Errorf("copy %+v", ws)
			}
		}
	}
}

// leave makes a request whose caller leaves just before it succeeds.
func leave(t *testing.T, f *fake, path string) {
	t.Helper()
	f.created, f.hold = make(chan dayfly.ID, 1), make(chan struct{})
	s := New(Options{Workspaces: f, Snapshots: f})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", path, nil))
	}()
	<-f.created
	cancel()
	close(f.hold)
	<-done
}

func TestCopiesOfACallerWhoLeftAreDeleted(t *testing.T) {
	t.Parallel()
	f := newFake()
	ws, err := f.Create(t.Context(), dayfly.Spec{Image: "base"}, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leave(t, f, "/v1/workspaces/"+string(ws.ID)+"/fork")
	if p, _ := f.List(t.Context(), dayfly.Query{}); len(p.Workspaces) != 1 || p.Workspaces[0].ID != ws.ID {
		t.Errorf("left behind: %v", p.Workspaces)
	}
}

func TestSnapshotOfACallerWhoLeftIsDeleted(t *testing.T) {
	t.Parallel()
	f := newFake()
	ws, err := f.Create(t.Context(), dayfly.Spec{Image: "base"}, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leave(t, f, "/v1/workspaces/"+string(ws.ID)+"/snapshots")
	if len(f.snaps) != 0 {
		t.Errorf("left behind: %v", f.snaps)
	}
}

// TestParentThatIsGoneIsAskedForByAKeyAlone: what was made of it is told again.
func TestParentThatIsGoneIsAskedForByAKeyAlone(t *testing.T) {
	t.Parallel()
	id := string(dayfly.NewID())
	for _, c := range []struct {
		path, key string
		asked     int
	}{
		{id + "/fork", "k", 1},
		{id + "/snapshots", "k", 1},
		{id + "/fork", "", 0},
		{id + "/snapshots", "", 0},
		{"name/fork", "k", 0},
	} {
		f := newFake()
		r := httptest.NewRequest("POST", "/v1/workspaces/"+c.path, nil)
		if c.key != "" {
			r.Header.Set("Idempotency-Key", c.key)
		}
		w := httptest.NewRecorder()
		New(Options{Workspaces: f, Snapshots: f}).ServeHTTP(w, r)
		if w.Code != http.StatusNotFound || len(f.parents) != c.asked {
			t.Errorf("POST %s with key %q: %d, asked %d times", c.path, c.key, w.Code, len(f.parents))
		}
	}
}

// revoking lets everyone in with a key that ends when it says so.
type revoking chan struct{}

func (c revoking) Authenticate(context.Context, string) (dayfly.Caller, <-chan struct{}, error) {
	return dayfly.Caller{Key: "k"}, c, nil
}

// TestCallerWhoseKeyIsRevokedIsTold: just before something was made for it, which
// is then not kept.
func TestCallerWhoseKeyIsRevokedIsTold(t *testing.T) {
	t.Parallel()
	for path, body := range map[string]string{"/v1/workspaces": `{"image":"base"}`, "/v1/workspaces/ID/fork": "", "/v1/workspaces/ID/snapshots": ""} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			ws, err := f.Create(t.Context(), dayfly.Spec{Image: "base"}, dayfly.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			f.created, f.hold = make(chan dayfly.ID, 1), make(chan struct{})
			revoked, w := make(revoking), httptest.NewRecorder()
			r := httptest.NewRequest("POST", strings.ReplaceAll(path, "ID", string(ws.ID)), strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer k")
			s := New(Options{Workspaces: f, Snapshots: f, Auth: revoked})
			defer s.Close()
			go s.ServeHTTP(w, r)
			<-f.created
			close(revoked)
			synctest.Wait()
			close(f.hold)
			synctest.Wait()
			if w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "revoked") {
				t.Errorf("POST %s: %d %s", path, w.Code, w.Body)
			}
			if p, _ := f.List(t.Context(), dayfly.Query{}); len(p.Workspaces) != 1 || len(f.snaps) != 0 {
				t.Errorf("POST %s left behind: %v %v", path, p.Workspaces, f.snaps)
			}
		})
	}
}

func TestLifeOfASnapshotOverHTTP(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	id, other := string(create(t, base).ID), string(create(t, base).ID)
	for _, step := range []struct {
		method, path, body string
		status             int
		holds              string
	}{
		{"GET", "/v1/snapshots", "", 200, `{"snapshots":[]}`},
		{"POST", "/v1/workspaces/" + id + "/snapshots", `{"name":"first"}`, 201, `"name":"first","workspace":"` + id},
		{"POST", "/v1/workspaces/" + other + "/snapshots", `{"name":"second"}`, 201, `"paused_ms":1.5`},
		{"POST", "/v1/workspaces/" + id + "/snapshots", "", 201, `"workspace":"` + id},
		{"GET", "/v1/snapshots/first", "", 200, `"name":"first"`},
		{"GET", "/v1/snapshots?workspace=" + other, "", 200, `"name":"second"`},
		{"GET", "/v1/snapshots?workspace=" + nobody, "", 200, `{"snapshots":[]}`},
		{"POST", "/v1/workspaces/" + id + "/rollback", `{"snapshot":"first"}`, 200, `"start_kind":"snapshot"`},
		{"POST", "/v1/workspaces/" + id + "/rollback", `{"snapshot":"none"}`, 404, "no snapshot none"},
		{"POST", "/v1/workspaces", `{"snapshot":"first"}`, 201, `"snapshot":"first"`},
		{"DELETE", "/v1/snapshots/first", "", 204, ""},
		{"DELETE", "/v1/snapshots/first", "", 404, `"kind":"not_found"`},
	} {
		resp, body := call(t, step.method, base+step.path, step.body)
		if resp.StatusCode != step.status || !strings.Contains(body, step.holds) {
			t.Errorf("%s %s: %s %s, want %d holding %s", step.method, step.path, resp.Status, body, step.status, step.holds)
		}
	}
}

func TestSnapshotsAreNewestFirst(t *testing.T) {
	t.Parallel()
	f := newFake()
	base := serve(t, f)
	url := base + "/v1/workspaces/" + string(create(t, base).ID) + "/snapshots"
	call(t, "POST", url, `{"name":"older"}`)
	call(t, "POST", url, `{"name":"newer"}`)
	_, body := call(t, "GET", base+"/v1/snapshots", "")
	if newer, older := strings.Index(body, "newer"), strings.Index(body, "older"); newer < 0 || newer > older {
		t.Errorf("snapshots: %s", body)
	}
	if f.snaps[0].Name != "older" {
		t.Error("the host's own list was put in another order")
	}
}

func TestDiskUsageIsTold(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	if _, body := call(t, "GET", base+"/v1/system/usage", ""); body != `{"usage":[{"kind":"images","count":1,"bytes":2,"reclaimable_bytes":0}]}`+"\n" {
		t.Error(body)
	}
	if _, body := call(t, "POST", base+"/v1/system/prune", ""); body != `{"usage":[]}`+"\n" {
		t.Error(body)
	}
}

func TestServerWithoutSnapshotsSaysSo(t *testing.T) {
	t.Parallel()
	s := New(Options{Workspaces: newFake()})
	for _, path := range []string{"/v1/snapshots", "/v1/snapshots/x", "/v1/system/usage"} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "this server") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
