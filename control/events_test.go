package control_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/control/webhook"
)

// receiver is a server that webhooks are sent to.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	got   []dayfly.Event
	heads []http.Header
	raw   [][]byte
	more  chan struct{}
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	r := &receiver{more: make(chan struct{}, 1000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		var e dayfly.Event
		if err := json.Unmarshal(b, &e); err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.got, r.heads, r.raw = append(r.got, e), append(r.heads, req.Header), append(r.raw, b)
		r.mu.Unlock()
		r.more <- struct{}{}
		if answer != nil {
			answer(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-r.more:
		case <-time.After(30 * time.Second):
			t.Fatal("no event came")
		}
	}
}

func private(o *control.Options) { o.PrivateWebhooks = true }

func TestWebhookGetsSignedEventsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, private)
	r := newReceiver(t, nil)
	hook, err := w.CreateWebhook(t.Context(), dayfly.Webhook{URL: r.URL, Active: true})
	if err != nil || !strings.HasPrefix(hook.Secret, "whsec_") {
		t.Fatalf("%+v, %v", hook, err)
	}
	ws := w.create(base)
	if err := w.Delete(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	r.wait(t, 4)
	var types []dayfly.EventType
	for i, e := range r.got {
		types = append(types, e.Type)
		h := r.heads[i]
		sec, err := strconv.ParseInt(h.Get("Webhook-Timestamp"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		want := http.Header{}
		if err := webhook.Sign(want, hook.Secret, webhook.Message{ID: e.ID, At: time.Unix(sec, 0), Body: r.raw[i]}); err != nil {
			t.Fatal(err)
		}
		if got := h.Get("Webhook-Signature"); got != want.Get("Webhook-Signature") {
			t.Errorf("signature %q", got)
		}
		if h.Get("Webhook-Id") != e.ID || e.ID == "" || h.Get("Dayfly-Webhook-Id") != hook.ID {
			t.Errorf("headers %v", h)
		}
	}
	if want := w.events(ws.ID); !slices.Equal(types, want) {
		t.Errorf("sent %v, happened %v", types, want)
	}
	if list, err := w.Webhooks(t.Context()); err != nil || len(list) != 1 || list[0].Secret != "" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestHangingReceiverHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, private)
	release := make(chan struct{})
	slow := newReceiver(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	quick := newReceiver(t, nil)
	for _, url := range []string{slow.URL, quick.URL} {
		if _, err := w.CreateWebhook(t.Context(), dayfly.Webhook{URL: url, Active: true}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		w.create(base)
	}
	slow.wait(t, 1)
	quick.wait(t, 9)
	if len(slow.got) != 1 {
		t.Errorf("%d attempts at once", len(slow.got))
	}
}

func TestWebhookThatIsRefusedIsTriedAgainAndFollowsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, private)
	trap := newReceiver(t, nil)
	first := true
	r := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		if first {
			http.Redirect(w, req, trap.URL, http.StatusTemporaryRedirect)
		}
		first = false
	})
	hook, err := w.CreateWebhook(t.Context(), dayfly.Webhook{URL: r.URL, Active: true, Types: []dayfly.EventType{dayfly.WorkspaceCreated}})
	if err != nil {
		t.Fatal(err)
	}
	w.create(base)
	r.wait(t, 2)
	if r.got[0].ID != r.got[1].ID || len(trap.got) != 0 {
		t.Errorf("%v; redirected: %v", r.got, trap.got)
	}
	for {
		list, err := w.Deliveries(t.Context(), hook.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0].DoneAt != nil {
			if list[0].Attempts != 2 || list[0].Status != 200 {
				t.Errorf("%+v", list[0])
			}
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestWebhookReachesNoPrivateAddressUnlessAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t, nil)
	hook, err := w.CreateWebhook(t.Context(), dayfly.Webhook{URL: strings.Replace(r.URL, "127.0.0.1", "localhost", 1), Active: true})
	if err != nil {
		t.Fatal(err)
	}
	w.create(base)
	for {
		list, err := w.Deliveries(t.Context(), hook.ID)
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(list, func(d dayfly.Delivery) bool { return d.Attempts > 0 }); i >= 0 {
			if d := list[i]; d.DoneAt != nil || !strings.Contains(d.Error, "private") || d.NextAt == nil {
				t.Errorf("%+v", d)
			}
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if len(r.got) != 0 {
		t.Error("it was reached")
	}
	for _, url := range []string{"", "ftp://example.org/", "http://", "file:///etc/passwd", "http://user:pw@example.org/", "gopher://x"} {
		_, err := w.CreateWebhook(t.Context(), dayfly.Webhook{URL: url})
		wantKind(t, err, dayfly.Invalid)
	}
}

func TestWebhooksOfOthersAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, private)
	w.namespace("a", dayfly.Limits{})
	w.namespace("b", dayfly.Limits{})
	r := newReceiver(t, nil)
	hook, err := w.CreateWebhook(in("a"), dayfly.Webhook{URL: r.URL, Active: true, Namespace: "b"})
	if err != nil || hook.Namespace != "a" {
		t.Fatalf("%+v, %v", hook, err)
	}
	for name, err := range map[string]error{
		"get": second(w.Webhook(in("b"), hook.ID)), "update": second(w.UpdateWebhook(in("b"), hook)),
		"delete": w.DeleteWebhook(in("b"), hook.ID), "deliveries": second(w.Deliveries(in("b"), hook.ID)),
	} {
		if dayfly.KindOf(err) != dayfly.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, ns := range []string{"b", "a"} {
		if _, err := w.Create(in(ns), base, dayfly.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.wait(t, 3)
	for _, e := range r.got {
		if e.Namespace != "a" {
			t.Errorf("an event of %s was sent", e.Namespace)
		}
	}
}

func TestAwaitEventWakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	last, err := w.db.LastEvent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() { woken <- w.AwaitEvent(context.Background(), last) }()
	w.create(base)
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
	if list, err := w.Events(t.Context(), dayfly.EventQuery{After: last}); err != nil || len(list) == 0 {
		t.Fatalf("%v, %v", list, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.AwaitEvent(ctx, 1<<60); err == nil {
		t.Fatal("there is no such event")
	}
}

func TestAuditIsKeptWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	away := &awayStore{Store: w.db, gone: false}
	w.close()
	w.opt.Store = away
	w.open()
	away.set(true)
	w.AddAudit(t.Context(), dayfly.AuditEntry{Action: "POST /v1/workspaces", Namespace: "default", Status: 201})
	away.set(false)
	w.AddAudit(t.Context(), dayfly.AuditEntry{Action: "DELETE /v1/workspaces", Namespace: "default", Status: 204})
	w.close()
	w.open()
	list, err := w.Audit(t.Context(), dayfly.AuditQuery{})
	if err != nil || len(list) != 2 || list[1].Status != 201 {
		t.Fatalf("%+v, %v", list, err)
	}
}
