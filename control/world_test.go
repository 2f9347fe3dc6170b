package control_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a server without an edge: a real store, a fake node, and what decides
// between them.
type world struct {
	*control.Control
	t    testing.TB
	node *fakeNode
	db   *store.Store
	opt  control.Options
}

var tokenKey = []byte("0123456789abcdef0123456789abcdef")

// newWorld opens a Control over an empty store; change may change its options.
func newWorld(t testing.TB, change ...func(*control.Options)) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite://" + filepath.Join(dir, "dayfly.db")})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, node: newFakeNode(), db: db}
	w.opt = control.Options{Node: w.node, Store: db, LogDir: filepath.Join(dir, "logs"), TokenKey: tokenKey, Log: logger(t)}
	for _, f := range change {
		f(&w.opt)
	}
	w.open()
	t.Cleanup(func() {
		w.close()
		w.node.close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func logger(t testing.TB) *slog.Logger {
	out := io.Discard
	if os.Getenv("DAYFLY_TEST_LOG") != "" {
		out = t.Output()
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// open opens a Control over what there is, and waits until it has settled.
func (w *world) open() {
	w.t.Helper()
	var now atomic.Pointer[control.Control]
	w.node.mu.Lock()
	w.node.changed = func(ws dayfly.Workspace) {
		if c := now.Load(); c != nil {
			c.Changed(ws)
		}
	}
	w.node.mu.Unlock()
	c, err := control.Open(context.Background(), w.opt)
	if err != nil {
		w.t.Fatal(err)
	}
	now.Store(c)
	w.Control = c
	w.settled()
}

func (w *world) settled() {
	w.t.Helper()
	for range 1000 {
		if w.Ready(context.Background()) == nil {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	w.t.Fatal("not settled")
}

func (w *world) close() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Error(err)
	}
}

// restart ends the Control and opens another.
func (w *world) reopen() {
	w.close()
	w.open()
}

var base = dayfly.Spec{Image: "base"}

func (w *world) create(spec dayfly.Spec) dayfly.Workspace {
	w.t.Helper()
	ws, err := w.Create(context.Background(), spec, dayfly.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return ws
}

func (w *world) get(id dayfly.ID) dayfly.Workspace {
	w.t.Helper()
	ws, err := w.Get(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return ws
}

// until waits for a state. Within a bubble of synctest the waiting costs nothing.
func (w *world) until(id dayfly.ID, s dayfly.State) dayfly.Workspace {
	w.t.Helper()
	for range 2000 {
		ws, err := w.Get(context.Background(), id)
		if dayfly.KindOf(err) == dayfly.NotFound && s == dayfly.Deleted {
			return ws
		}
		if err == nil && ws.State == s {
			return ws
		}
		<-time.After(5 * time.Millisecond)
	}
	w.t.Fatalf("%s is %s, not %s", id, w.get(id).State, s)
	return dayfly.Workspace{}
}

// stored is the record in the store.
func (w *world) stored(id dayfly.ID) store.Record {
	w.t.Helper()
	r, err := w.db.Get(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) events(id dayfly.ID) []dayfly.EventType {
	w.t.Helper()
	list, err := w.db.Events(context.Background(), dayfly.EventQuery{Workspace: id})
	if err != nil {
		w.t.Fatal(err)
	}
	var types []dayfly.EventType
	for _, e := range list {
		types = append(types, e.Type)
	}
	return types
}

// wantKind fails unless err is of a kind.
func wantKind(t testing.TB, err error, k dayfly.Kind) {
	t.Helper()
	if dayfly.KindOf(err) != k {
		t.Fatalf("error is %v (%s), not of kind %s", err, dayfly.KindOf(err), k)
	}
}

func as(c dayfly.Caller) context.Context { return dayfly.WithCaller(context.Background(), c) }

func in(namespace string) context.Context {
	return as(dayfly.Caller{Key: "k-" + namespace, Namespace: namespace, Bound: true})
}

func (w *world) namespace(name string, l dayfly.Limits) {
	w.t.Helper()
	if _, err := w.CreateNamespace(context.Background(), dayfly.Namespace{Name: name, Limits: l}); err != nil {
		w.t.Fatal(err)
	}
}
