package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

func create(t *testing.T, base string) dayfly.Workspace {
	t.Helper()
	resp, body := call(t, "POST", base+"/v1/workspaces", `{"image":"base"}`)
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("create: %s: %s", resp.Status, body)
	}
	var ws dayfly.Workspace
	if err := json.Unmarshal([]byte(body), &ws); err != nil {
		t.Fatal(err)
	}
	return ws
}

func refused(t *testing.T, body string) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || p.Type != "urn:dayfly:"+string(p.Kind) || p.Title == "" || p.Instance == "" {
		t.Fatalf("reply %q is not a problem: %v", body, err)
	}
	return p
}

func TestLifeOfAWorkspaceOverHTTP(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	ws := create(t, base)
	url := base + "/v1/workspaces/" + string(ws.ID)
	for _, step := range []struct {
		method, url string
		status      int
		holds       string
	}{
		{"GET", url, 200, `"state":"running"`},
		{"GET", base + "/v1/workspaces", 200, `{"workspaces":[{"id":"` + string(ws.ID)},
		{"POST", url + "/start", 409, `"kind":"conflict"`},
		{"POST", url + "/stop", 200, `"state":"stopped"`},
		{"GET", url + "/guest/health", 409, "is stopped"},
		{"POST", url + "/start", 200, `"state":"running"`},
		{"DELETE", url, 204, ""},
		{"DELETE", url, 404, `"kind":"not_found"`},
		{"GET", url, 404, `"kind":"not_found"`},
		{"GET", base + "/v1/workspaces", 200, `{"workspaces":[]}`},
	} {
		resp, body := call(t, step.method, step.url, "")
		if resp.StatusCode != step.status || !strings.Contains(body, step.holds) {
			t.Errorf("%s %s: %s %s, want %d holding %s", step.method, step.url, resp.Status, body, step.status, step.holds)
		}
	}
}

func TestStartIsTimedInAHeader(t *testing.T) {
	t.Parallel()
	resp, _ := call(t, "POST", serve(t, newFake())+"/v1/workspaces", `{"image":"base"}`)
	want := `image;dur=0.4, guest;dur=100.0, guest.mount_root;dur=5.2, total;dur=100.5, start_kind;desc="cold"`
	if got := resp.Header.Get("Server-Timing"); got != want {
		t.Errorf("Server-Timing = %s\nwant %s", got, want)
	}
}

// nobody is the id of no workspace.
const nobody = "wabcdefghijklmnopqrst"

func TestBadRequestsAreNamed(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	here := string(create(t, base).ID)
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/v1/workspaces", `{"image":"base","memroy":1}`, 400, `unknown field "memroy"`},
		{"POST", "/v1/workspaces", `{"image":"base","cpus":"two"}`, 400, "cpus is a JSON string: use a int"},
		{"POST", "/v1/workspaces", `{"image":"base","cpus":99}`, 400, "cpus is 99: use 1 to 32"},
		{"POST", "/v1/workspaces", `{"image":" "}`, 400, "image is empty"},
		{"POST", "/v1/workspaces", `{"image":"base"} {}`, 400, "something follows"},
		{"POST", "/v1/workspaces", `{"image":`, 400, "not JSON"},
		{"POST", "/v1/workspaces", "", 400, "content type"},
		{"POST", "/v1/workspaces", `{"image":"` + strings.Repeat("x", maxJSON) + `"}`, 413, "larger than"},
		{"GET", "/v1/workspaces/w1", "", 404, "no workspace w1"},
		{"GET", "/v1/nothing", "", 404, "no such route"},
		{"PUT", "/v1/workspaces", "", 405, "use GET"},
		{"POST", "/v1/images/pull", `{"reference":""}`, 400, "reference is empty"},
		{"POST", "/v1/images/build", `{}`, 400, "recipe is empty"},
		{"GET", "/v1/images/none", "", 404, "no image none"},
		{"POST", "/v1/workspaces", `{"image":"base","snapshot":"s"}`, 400, "name one of the two"},
		{"POST", "/v1/workspaces/" + here + "/fork", `{"count":0}`, 400, "count is 0: use 1 to 100"},
		{"POST", "/v1/workspaces/" + here + "/fork", `{"count":101}`, 400, "use 1 to 100"},
		{"POST", "/v1/workspaces/" + here + "/fork", `{"n":2}`, 400, `unknown field "n"`},
		{"POST", "/v1/workspaces/" + nobody + "/fork", "", 404, "no workspace"},
		{"POST", "/v1/workspaces/w1/fork", "", 404, "no workspace w1"},
		{"POST", "/v1/workspaces/" + here + "/rollback", `{}`, 400, "snapshot is empty"},
		{"POST", "/v1/workspaces/" + here + "/rollback", "", 400, "content type"},
		{"POST", "/v1/workspaces/" + nobody + "/pause", "", 404, "no workspace"},
		{"POST", "/v1/workspaces/" + nobody + "/resume", "", 404, "no workspace"},
		{"POST", "/v1/workspaces/" + nobody + "/snapshots", "", 404, "no workspace"},
		{"POST", "/v1/workspaces/w1/snapshots", "", 404, "no workspace w1"},
		{"POST", "/v1/workspaces/" + here + "/snapshots", `{"name":"a/b"}`, 400, "without spaces and slashes"},
		{"POST", "/v1/workspaces/" + here + "/snapshots", `{"name":"` + nobody + `"}`, 400, "looks like an id"},
		{"POST", "/v1/workspaces/" + here + "/snapshots", `{"name":".."}`, 400, "choose another"},
		{"GET", "/v1/snapshots?workspace=w1", "", 400, "not a workspace id"},
		{"GET", "/v1/snapshots/none", "", 404, "no snapshot none"},
		{"DELETE", "/v1/snapshots/none", "", 404, "no snapshot none"},
		{"GET", "/v1/system/prune", "", 405, "use POST"},
	} {
		resp, body := call(t, c.method, base+c.path, c.body)
		if resp.StatusCode != c.status || !strings.Contains(refused(t, body).Detail, c.says) {
			t.Errorf("%s %s %.60s: %s %s, want %d saying %s", c.method, c.path, c.body, resp.Status, body, c.status, c.says)
		}
	}
}

func TestEveryKindHasItsStatusAndKeepsItsCause(t *testing.T) {
	t.Parallel()
	for kind, k := range kinds {
		f, status := newFake(), k.status
		f.err = fmt.Errorf("start: %w", &dayfly.Error{Kind: kind, Msg: "what to do", Stage: "disk", Err: errors.New("/secret/path")})
		resp, body := call(t, "POST", serve(t, f)+"/v1/workspaces", `{"image":"base"}`)
		got := refused(t, body)
		if resp.StatusCode != status || got.Status != status || got.Kind != kind || got.Detail != "what to do" || got.Stage != "disk" || got.Remedy == "" {
			t.Errorf("%s: %s %+v, want %d", kind, resp.Status, got, status)
		}
		if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" || strings.Contains(body, "secret") {
			t.Errorf("%s: %s %s", kind, ct, body)
		}
	}
}

func TestUnknownErrorIsInternalAndNotSent(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.err = errors.New("open /var/lib/secret: denied")
	resp, body := call(t, "POST", serve(t, f)+"/v1/workspaces", `{"image":"base"}`)
	if resp.StatusCode != 500 || strings.Contains(body, "secret") {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestWorkspaceOfACallerWhoLeftIsDeleted(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.created, f.hold = make(chan dayfly.ID, 1), make(chan struct{})
	s := New(Options{Workspaces: f})
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "POST", "/v1/workspaces", strings.NewReader(`{"image":"base"}`))
	r.Header.Set("Content-Type", "application/json")
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(httptest.NewRecorder(), r)
	}()
	<-f.created
	cancel()
	close(f.hold)
	<-done
	if p, _ := f.List(t.Context(), dayfly.Query{}); len(p.Workspaces) != 0 {
		t.Errorf("left behind: %v", p.Workspaces)
	}
}

func TestImageNamesMayHoldSlashes(t *testing.T) {
	t.Parallel()
	resp, body := call(t, "GET", serve(t, newFake())+"/v1/images/registry.example%2Fa%2Fb:1", "")
	if resp.StatusCode != 200 || !strings.Contains(body, `"registry.example/a/b:1"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestListsAreInOrder(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	if _, body := call(t, "GET", base+"/v1/images", ""); strings.Index(body, `"a"`) > strings.Index(body, `"b"`) {
		t.Errorf("images: %s", body)
	}
	if _, body := call(t, "GET", base+"/v1/kernels", ""); !strings.HasPrefix(body, `{"kernels":[{"id":"b"`) {
		t.Errorf("kernels: %s", body)
	}
}

func TestLongWorkIsTold(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	for _, c := range []struct{ path, body, want string }{
		{"images/pull", `{"reference":"x","platform":"linux/amd64"}`,
			`{"progress":{"step":"layer","done":1,"total":4}}` + "\n" + `{"progress":{"step":"layer","done":4,"total":4}}` + "\n" +
				`{"image":{"name":"x","digest":"","platform":"linux/amd64","size":0,"created_at":"0001-01-01T00:00:00Z"}}` + "\n"},
		{"images/pull", `{"reference":"broken"}`,
			`{"progress":{"step":"layer","done":1,"total":4}}` + "\n" + `{"progress":{"step":"layer","done":4,"total":4}}` + "\n" +
				`{"error":{"kind":"unavailable","message":"registry: connection lost","stage":"pull"}}` + "\n"},
		{"images/build", `{"recipe":"base"}`, `{"image":{"name":"base","digest":"","platform":"","size":0,"created_at":"0001-01-01T00:00:00Z"}}` + "\n"},
		{"kernels/import", "deb", `{"kernel":{"id":"deb","release":"","flavour":"","preferred":false,"size":0}}` + "\n"},
		{"kernels/build", "", `{"kernel":{"id":"","release":"","flavour":"tuned","preferred":false,"size":0}}` + "\n"},
	} {
		resp, body := call(t, "POST", base+"/v1/"+c.path, c.body)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" || body != c.want {
			t.Errorf("%s %s: %s\n%s, want\n%s", c.path, c.body, resp.Status, body, c.want)
		}
	}
	// Refused before the first line: a status says so.
	if resp, body := call(t, "POST", base+"/v1/images/pull", `{"reference":"bad"}`); resp.StatusCode != 400 {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestUploadsAreTakenWhileProgressIsTold(t *testing.T) {
	t.Parallel()
	f := newFake()
	archive := strings.Repeat("layer", 1<<20)
	resp, body := call(t, "POST", serve(t, f)+"/v1/images/import?name=a/b&platform=linux/arm64", archive)
	if resp.StatusCode != 200 || string(f.imported) != archive || !strings.Contains(body, `"name":"a/b"`) || !strings.Contains(body, `"linux/arm64"`) {
		t.Errorf("%s %s, %d bytes of %d", resp.Status, body, len(f.imported), len(archive))
	}
}

func TestHostIsChecked(t *testing.T) {
	t.Parallel()
	base := serve(t, newFake())
	if _, body := call(t, "GET", base+"/v1/host", ""); body != `{"checks":[{"name":"kvm","status":"lacking","detail":"no","remedy":"buy"}]}`+"\n" {
		t.Error(body)
	}
	if _, body := call(t, "GET", base+"/v1/version", ""); body != `{"version":"`+dayfly.Version+`"}`+"\n" {
		t.Error(body)
	}
	if resp, body := call(t, "GET", base+"/healthz", ""); resp.StatusCode != 204 || body != "" {
		t.Error(resp.Status, body)
	}
}

func TestWebPagesAreKeptOut(t *testing.T) {
	t.Parallel()
	s := New(Options{Workspaces: newFake()})
	for _, c := range []struct {
		host, origin string
		status       int
	}{
		{"localhost:7070", "", 200},
		{"127.0.0.1:7070", "", 200},
		{"[::1]:7070", "", 200},
		{"rebound.example:7070", "", 403},
		{"127.0.0.1.example", "", 403},
		{"localhost:7070", "http://evil.example", 403},
		{"localhost:7070", "http://localhost:7070", 200},
	} {
		method, want := "GET", c.status
		if c.origin != "" {
			method = "DELETE"
			if want == 200 {
				want = 404
			}
		}
		r := httptest.NewRequest(method, "http://"+c.host+"/v1/workspaces", nil)
		if method == "DELETE" {
			r = httptest.NewRequest(method, "http://"+c.host+"/v1/workspaces/"+string(dayfly.NewID()), nil)
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r.WithContext(OnLoopback(r.Context())))
		if w.Code != want {
			t.Errorf("host %s origin %s: %d, want %d", c.host, c.origin, w.Code, want)
		}
	}
}

func FuzzServerTiming(f *testing.F) {
	f.Add("image", "guest", 1.5, 3)
	f.Add("a, b;dur=1\r\nX: y", "\x00", -1.0, 200)
	f.Fuzz(func(t *testing.T, name, within string, took float64, n int) {
		ws := dayfly.Workspace{StartKind: dayfly.StartKind(name)}
		for range min(max(n, 0), 300) {
			ws.Timeline = append(ws.Timeline, dayfly.Stage{Name: name, Within: within, Took: took})
		}
		v := serverTiming(ws)
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("not a header value: %q", v)
		}
		if entries := strings.Split(v, ", "); len(entries) > maxTimings+2 {
			t.Errorf("%d entries", len(entries))
		}
	})
}
