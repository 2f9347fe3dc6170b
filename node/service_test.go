package node

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/store"
	"github.com/dayfly/dayfly/vmm/fake"
)

// service is all of a server but its machines: a client of the API, what
// decides, an SQL database, and a node over the fake VMM.
type service struct {
	t      *testing.T
	w      *world
	node   *Node
	db     *store.Store
	ctl    atomic.Pointer[control.Control]
	client *client.Client // of a key that is bound to the namespace team
}

const teamLimit = 4 // running at once

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, w: newWorld(t)}
	s.w.outlive = true
	s.w.changed = func(ws dayfly.Workspace) {
		if c := s.ctl.Load(); c != nil {
			c.Changed(ws)
		}
	}
	s.node = s.w.node(t)
	var err error
	if s.db, err = store.Open(t.Context(), store.Options{URL: "sqlite://" + filepath.Join(s.w.dir, "dayfly.db")}); err != nil {
		t.Fatal(err)
	}
	s.open()
	t.Cleanup(func() {
		if err := s.ctl.Load().Close(); err != nil {
			t.Error(err)
		}
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	ctl := s.ctl.Load()
	if _, err := ctl.CreateNamespace(t.Context(), dayfly.Namespace{Name: "team", Limits: dayfly.Limits{Running: teamLimit}}); err != nil {
		t.Fatal(err)
	}
	_, key, err := ctl.CreateKey(t.Context(), dayfly.Key{Namespace: "team"})
	if err != nil {
		t.Fatal(err)
	}
	s.serve(key)
	return s
}

// open makes what decides, and waits until it has looked at all there is.
func (s *service) open() {
	s.t.Helper()
	c, err := control.Open(context.Background(), control.Options{
		Node: s.node, Store: s.db, LogDir: filepath.Join(s.w.dir, "logs"), TokenKey: make([]byte, 32), Starts: 4,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.ctl.Store(c)
	<-c.Settled()
}

// reopen is a restart of the server, whose machines go on.
func (s *service) reopen() {
	if err := s.ctl.Load().Close(); err != nil {
		s.t.Error(err)
	}
	s.open()
}

// serve offers the API at an address, whichever Control there is.
func (s *service) serve(key string) {
	s.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.ctl.Load()
		edge := api.New(api.Options{Workspaces: c, Auth: c, Namespaces: c})
		defer edge.Close()
		edge.ServeHTTP(w, r)
	}))
	s.t.Cleanup(server.Close)
	var err error
	if s.client, err = client.New(client.Options{Address: server.URL, Key: key}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = s.client.Close() })
}

// book is what a model says: the states of the workspaces there are.
type book struct {
	s     *service
	state map[dayfly.ID]dayfly.State
	kept  map[dayfly.ID]bool // those that have a pause to go back to
	order []dayfly.ID        // as maps have none
	steps *int
}

func (b *book) pick(r *rapid.T) dayfly.ID {
	if len(b.order) == 0 {
		r.Skip("none")
	}
	return rapid.SampledFrom(b.order).Draw(r, "which")
}

func (b *book) running() (n int) {
	for _, s := range b.state {
		if s == dayfly.Running {
			n++
		}
	}
	return n
}

// said compares an answer with what the model expects.
func (b *book) said(r *rapid.T, what string, err error, want dayfly.Kind) (ok bool) {
	if dayfly.KindOf(err) != want {
		r.Fatalf("%s: %v, want %q", what, err, want)
	}
	return want == ""
}

func (b *book) create(r *rapid.T) {
	if len(b.order) > 6 {
		r.Skip("enough")
	}
	one := spec
	one.Keep = true
	ws, err := b.s.client.Workspaces.Create(context.Background(), one)
	want := dayfly.Kind("")
	if b.running() >= teamLimit {
		want = dayfly.Exhausted
	}
	if b.said(r, "create", err, want) {
		b.state[ws.ID], b.order = dayfly.Running, append(b.order, ws.ID)
	}
}

// turns are the verbs of a life: from where, to where, and where they do nothing.
var turns = map[string]struct {
	from []dayfly.State
	same dayfly.State
	to   dayfly.State
	do   func(*client.Workspaces, context.Context, dayfly.ID) (dayfly.Workspace, error)
}{
	"start":   {[]dayfly.State{dayfly.Stopped, dayfly.Failed, dayfly.Paused}, "", dayfly.Running, (*client.Workspaces).Start},
	"restart": {[]dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}, "", dayfly.Running, (*client.Workspaces).Restart},
	"resume":  {[]dayfly.State{dayfly.Paused}, "", dayfly.Running, (*client.Workspaces).Resume},
	"pause":   {[]dayfly.State{dayfly.Running}, dayfly.Paused, dayfly.Paused, (*client.Workspaces).Pause},
	"stop":    {[]dayfly.State{dayfly.Running, dayfly.Paused, dayfly.Failed}, dayfly.Stopped, dayfly.Stopped, (*client.Workspaces).Stop},
}

func (b *book) turn(r *rapid.T, verb string) {
	t, id := turns[verb], b.pick(r)
	was := b.state[id]
	ws, err := t.do(b.s.client.Workspaces, context.Background(), id)
	var want dayfly.Kind
	switch {
	case was == t.same:
	case verb == "resume" && was == dayfly.Failed && b.running() >= teamLimit:
		want = dayfly.Exhausted
	case verb == "resume" && was == dayfly.Failed && b.kept[id]: // it goes back to its pause
	case verb == "resume" && was == dayfly.Failed: // the node says no
		want = dayfly.Conflict
	case !slices.Contains(t.from, was):
		want = dayfly.Conflict
	case t.to == dayfly.Running && was != dayfly.Running && b.running() >= teamLimit:
		want = dayfly.Exhausted
	}
	if b.said(r, verb+" of one that is "+string(was), err, want) {
		if ws.State != t.to {
			r.Fatalf("%s of one that is %s: it is %s", verb, was, ws.State)
		}
		b.state[id] = t.to
		switch {
		case verb == "pause":
			b.kept[id] = true
		case verb == "stop", verb == "restart" && (was == dayfly.Running || was == dayfly.Paused):
			delete(b.kept, id) // memory is given up
		}
	}
}

func (b *book) fork(r *rapid.T) {
	id, count := b.pick(r), rapid.IntRange(1, 2).Draw(r, "count")
	list, err := b.s.client.Workspaces.Fork(context.Background(), id, count)
	var want dayfly.Kind
	switch {
	case b.state[id] != dayfly.Running:
		want = dayfly.Conflict
	case b.running()+count > teamLimit:
		want = dayfly.Exhausted
	}
	if b.said(r, "fork of one that is "+string(b.state[id]), err, want) {
		for _, ws := range list {
			b.state[ws.ID], b.order = dayfly.Running, append(b.order, ws.ID)
		}
	}
}

func (b *book) remove(r *rapid.T) {
	id := b.pick(r)
	b.said(r, "delete", b.s.client.Workspaces.Delete(context.Background(), id), "")
	b.said(r, "delete again", b.s.client.Workspaces.Delete(context.Background(), id), dayfly.NotFound)
	delete(b.state, id)
	b.order = slices.DeleteFunc(b.order, func(one dayfly.ID) bool { return one == id })
}

// die is a machine that ends by itself.
func (b *book) die(r *rapid.T) {
	id := b.pick(r)
	if b.state[id] != dayfly.Running {
		r.Skip("no machine")
	}
	b.s.w.mu.Lock()
	m := b.s.w.latest[string(id)]
	b.s.w.mu.Unlock()
	b.said(r, "crash", fake.Crash(m), "")
	b.state[id] = dayfly.Failed
	b.await(r, id)
}

// await waits until a workspace is what the model says.
func (b *book) await(r *rapid.T, id dayfly.ID) {
	for {
		seq, err := b.s.ctl.Load().LastEvent(context.Background())
		b.said(r, "last event", err, "")
		ws, err := b.s.client.Workspaces.Get(context.Background(), id)
		b.said(r, "get", err, "")
		if ws.State == b.state[id] {
			return
		}
		b.said(r, "await", b.s.ctl.Load().AwaitEvent(context.Background(), seq), "")
	}
}

func (b *book) check(r *rapid.T) {
	*b.steps++
	for _, id := range b.order {
		b.await(r, id)
	}
	list, err := b.s.client.Workspaces.List(context.Background())
	if b.said(r, "list", err, ""); len(list) != len(b.state) {
		r.Fatalf("%d are listed, there are %d", len(list), len(b.state))
	}
	q, err := b.s.client.Namespaces.Quota(context.Background(), "team")
	if b.said(r, "quota", err, ""); q.Used.Workspaces != len(b.state) {
		r.Fatalf("the quota counts %+v of %d", q.Used, len(b.state))
	}
	homes, err := b.s.node.List(context.Background())
	if b.said(r, "node", err, ""); len(homes) != len(b.state) {
		r.Fatalf("the node has %d, there are %d", len(homes), len(b.state))
	}
}

// TestLifeThroughTheAPIIsWhatTheModelSays: every answer, and what is there after
// every step, through the HTTP API, control, an SQL database and the node; the
// server is restarted now and then.
func TestLifeThroughTheAPIIsWhatTheModelSays(t *testing.T) {
	t.Parallel()
	s, steps := newService(t), 0
	rapid.Check(t, func(r *rapid.T) {
		b := &book{s: s, state: map[dayfly.ID]dayfly.State{}, kept: map[dayfly.ID]bool{}, steps: &steps}
		actions := map[string]func(*rapid.T){
			"create": b.create, "fork": b.fork, "delete": b.remove, "die": b.die, "": b.check,
			"reopen": func(*rapid.T) { s.reopen() },
		}
		for verb := range turns {
			actions[verb] = func(r *rapid.T) { b.turn(r, verb) }
		}
		r.Cleanup(func() {
			for _, id := range b.order {
				if err := s.client.Workspaces.Delete(context.Background(), id); err != nil {
					t.Error(err)
				}
			}
		})
		r.Repeat(actions)
	})
	t.Logf("%d steps", steps)
}
