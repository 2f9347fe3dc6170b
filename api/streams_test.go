package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/test/fakehost"
)

func TestEventsAreListedAndGoOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	red, blue := s.bound("red"), s.bound("blue")
	one := s.workspace(red)
	all := must[api.EventList](s, ask{key: red, method: "GET", path: "/v1/events"}).Events
	if len(all) != 2 || all[0].Type != dayfly.WorkspaceCreated || all[0].Workspace != one.ID {
		t.Fatalf("%+v", all)
	}
	if got := must[api.EventList](s, ask{key: blue, method: "GET", path: "/v1/events"}).Events; len(got) != 0 {
		t.Errorf("another namespace sees %+v", got)
	}
	next := events(t, s.send(t.Context(), ask{key: red, method: "GET", path: "/v1/events", header: http.Header{"Accept": asEvents["Accept"], "Last-Event-Id": {"1"}}}))
	see := func(want dayfly.EventType) dayfly.Event {
		t.Helper()
		var e dayfly.Event
		name, data := next()
		if err := json.Unmarshal([]byte(data), &e); err != nil || name != string(want) || e.Type != want {
			t.Fatalf("%s %s, want %s", name, data, want)
		}
		return e
	}
	see(dayfly.WorkspaceRunning)
	s.workspace(blue) // which is none of its business
	must[struct{}](s, ask{key: red, method: "DELETE", path: "/v1/workspaces/" + string(one.ID)})
	if e := see(dayfly.WorkspaceDeleted); e.Workspace != one.ID {
		t.Errorf("%+v", e)
	}
	fresh := events(t, s.send(t.Context(), ask{key: red, method: "GET", path: "/v1/events?new=true", header: asEvents}))
	two := s.workspace(red)
	if _, data := fresh(); !strings.Contains(data, string(two.ID)) {
		t.Errorf("the first that is new is %s", data)
	}
	for query, n := range map[string]int{
		"after=1": 4, "limit=1": 1, "type=workspace.deleted": 1, "type=workspace.deleted&type=workspace.created": 3,
		"workspace=" + string(one.ID): 3, "after=1000": 0,
	} {
		if got := must[api.EventList](s, ask{key: red, method: "GET", path: "/v1/events?" + query}).Events; len(got) != n {
			t.Errorf("%s: %d events", query, len(got))
		}
	}
	for _, query := range []string{"new=true", "after=-1", "after=x", "type=nothing", "limit=0"} {
		if resp, _ := s.do(ask{key: red, method: "GET", path: "/v1/events?" + query}); resp.StatusCode != 400 {
			t.Errorf("%s: %s", query, resp.Status)
		}
	}
	if resp, _ := s.do(ask{key: red, method: "GET", path: "/v1/events", header: http.Header{"Accept": asEvents["Accept"], "Last-Event-Id": {"x"}}}); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}

func TestLogsArePlainOrEvents(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	at := "/v1/workspaces/" + string(s.workspace(fakehost.AdminKey).ID)
	for query, want := range map[string]string{"": "one\ntwo\nthree\n", "?tail=1": "three\n", "?source=command&tail=2": "two\nthree\n"} {
		if resp, body := s.do(ask{key: fakehost.AdminKey, method: "GET", path: at + "/logs" + query}); body != want || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %s %q", query, resp.Status, body)
		}
	}
	for _, query := range []string{"?source=none", "?tail=-1", "?tail=9999999", "?follow=maybe"} {
		if resp, body := s.do(ask{key: fakehost.AdminKey, method: "GET", path: at + "/logs" + query}); resp.StatusCode != 400 {
			t.Errorf("%s: %s %s", query, resp.Status, body)
		}
	}
	next := events(t, s.send(t.Context(), ask{key: fakehost.AdminKey, method: "GET", path: at + "/logs?follow=true", header: asEvents}))
	for _, want := range []string{`"one"`, `"two"`, `"three"`} {
		if name, data := next(); name != "log" || data != want {
			t.Errorf("%s %s, want %s", name, data, want)
		}
	}
}

func TestMetricsOnceAndAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	at := "/v1/workspaces/" + string(s.workspace(fakehost.AdminKey).ID) + "/metrics"
	if m := must[dayfly.Metrics](s, ask{key: fakehost.AdminKey, method: "GET", path: at}); m.CPUs != 1 {
		t.Errorf("%+v", m)
	}
	next := events(t, s.send(t.Context(), ask{key: fakehost.AdminKey, method: "GET", path: at + "?interval=1", header: asEvents}))
	for range 2 {
		if name, data := next(); name != "metrics" || !strings.Contains(data, `"cpus":1`) {
			t.Error(name, data)
		}
	}
	for _, query := range []string{"?interval=0", "?interval=3601"} {
		if resp, _ := s.do(ask{key: fakehost.AdminKey, method: "GET", path: at + query}); resp.StatusCode != 400 {
			t.Errorf("%s: %s", query, resp.Status)
		}
	}
}

func TestSecretsOfWebhooksAreShownOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	hook := must[dayfly.Webhook](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/webhooks", body: `{"url":"https://example.org/x","types":["workspace.created"]}`})
	if hook.Secret == "" || !hook.Active {
		t.Errorf("%+v", hook)
	}
	at := "/v1/webhooks/" + hook.ID
	for _, a := range []ask{
		{method: "GET", path: "/v1/webhooks"}, {method: "GET", path: at}, {method: "PATCH", path: at, body: `{"active":false}`}, {method: "GET", path: at + "/deliveries"},
	} {
		a.key = fakehost.AdminKey
		if resp, body := s.do(a); resp.StatusCode != 200 || strings.Contains(body, "whsec_") {
			t.Errorf("%s %s: %s %s", a.method, a.path, resp.Status, body)
		}
	}
	for _, body := range []string{`{}`, `{"url":"ftp://x"}`, `{"url":"https://"}`, `{"url":"https://x","types":["nothing"]}`, `{"url":"http://x/` + strings.Repeat("y", 3000) + `"}`} {
		if resp, reply := s.do(ask{key: fakehost.AdminKey, method: "POST", path: "/v1/webhooks", body: body}); resp.StatusCode != 400 {
			t.Errorf("%.80s: %s %s", body, resp.Status, reply)
		}
	}
	must[struct{}](s, ask{key: fakehost.AdminKey, method: "DELETE", path: at})
	if resp, _ := s.do(ask{key: fakehost.AdminKey, method: "GET", path: at}); resp.StatusCode != 404 {
		t.Error(resp.Status)
	}
}

func TestServersThatAreAPartOfACommandSaySo(t *testing.T) {
	t.Parallel()
	h := fakehost.New()
	s := newSite(t, func(o *api.Options) { *o = h.Options() })
	for _, path := range []string{"/v1/events", "/v1/keys", "/v1/webhooks", "/v1/namespaces", "/v1/quota", "/v1/audit"} {
		if resp, body := s.do(ask{method: "GET", path: path}); resp.StatusCode != 503 || !strings.Contains(body, "run dayfly serve") {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

func TestPageShowsEveryOperation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, spec := s.do(ask{method: "GET", path: "/v1/openapi.json"})
	resp, page := s.do(ask{method: "GET", path: "/docs"})
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal([]byte(spec), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, item := range doc.Paths {
		for _, op := range item {
			var o struct {
				OperationID string `json:"operationId"`
			}
			if json.Unmarshal(op, &o) != nil || o.OperationID == "" {
				continue
			}
			if n++; !strings.Contains(page, `id="`+o.OperationID+`"`) {
				t.Errorf("the page lacks %s", o.OperationID)
			}
		}
	}
	if n < 60 || strings.Contains(page, "<script") || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d operations, %v", n, resp.Header)
	}
}
