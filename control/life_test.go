package control_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
)

func TestLifeOfAWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := as(dayfly.Caller{Key: "me"})
	ws, err := w.Create(ctx, base, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		do   func(context.Context, dayfly.ID) (dayfly.Workspace, error)
		want dayfly.State
	}{
		{w.Pause, dayfly.Paused}, {w.Resume, dayfly.Running}, {w.Stop, dayfly.Stopped}, {w.Start, dayfly.Running},
		{w.Restart, dayfly.Running}, {w.Pause, dayfly.Paused}, {w.Start, dayfly.Running}, {w.Pause, dayfly.Paused}, {w.Stop, dayfly.Stopped},
	} {
		got, err := step.do(ctx, ws.ID)
		if err != nil || got.State != step.want || got.Ready != (step.want == dayfly.Running) || w.stored(ws.ID).State != step.want {
			t.Fatalf("want %s: %+v, %v", step.want, got, err)
		}
	}
	if !w.stored(ws.ID).StoppedByCaller {
		t.Error("it is not known that a caller stopped it")
	}
	_, err = w.Pause(ctx, ws.ID)
	wantKind(t, err, dayfly.Conflict)
	if err := w.Delete(ctx, ws.ID); err != nil {
		t.Fatal(err)
	}
	w.nothing()
	r, run, y := dayfly.WorkspaceReady, dayfly.WorkspaceRunning, dayfly.WorkspaceStopped
	p := dayfly.WorkspacePaused
	want := []dayfly.EventType{dayfly.WorkspaceCreated, run, r, p, run, r, y, run, r, run, r, p, run, r, p, y, dayfly.WorkspaceDeleted}
	if got := w.events(ws.ID); !slices.Equal(got, want) {
		t.Errorf("events\n%v, want\n%v", got, want)
	}
	list, _ := w.db.Events(ctx, dayfly.EventQuery{})
	for _, e := range list {
		if e.Actor != "me" {
			t.Errorf("%s was done by %q", e.Type, e.Actor)
		}
	}
}

func TestStartNeedsRoomThatStopHasGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("team", dayfly.Limits{Running: 1})
	ctx := in("team")
	one, err := w.Create(ctx, base, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Stop(ctx, one.ID); err != nil {
		t.Fatal(err)
	}
	two, err := w.Create(ctx, base, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Start(ctx, one.ID)
	wantKind(t, err, dayfly.Exhausted)
	_, err = w.Fork(ctx, two.ID, 1)
	wantKind(t, err, dayfly.Exhausted)
	if ws := w.get(one.ID); ws.State != dayfly.Stopped {
		t.Fatalf("after a refusal it is %s", ws.State)
	}
	if n := len(w.node.ids()); n != 2 {
		t.Fatalf("the node has %d", n)
	}
}

func TestFailedStartLeavesItAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ws := w.create(base)
	if _, err := w.Stop(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	w.node.fails = func(verb string, _ dayfly.Workspace) error {
		return dayfly.Errorf(dayfly.Unavailable, "no %s today", verb)
	}
	_, err := w.Start(t.Context(), ws.ID)
	wantKind(t, err, dayfly.Unavailable)
	if r := w.stored(ws.ID); r.State != dayfly.Stopped || w.get(ws.ID).State != dayfly.Stopped {
		t.Fatalf("it is %s", r.State)
	}
}

func TestRacesOfTwoCallsEndInOneState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *control.Options) { o.Starts = 8 })
	verbs := map[string]func(context.Context, dayfly.ID) error{
		"start": drop(w.Start), "stop": drop(w.Stop), "pause": drop(w.Pause), "resume": drop(w.Resume), "restart": drop(w.Restart),
		"delete":     w.Delete,
		"keep-alive": func(ctx context.Context, id dayfly.ID) error { _, err := w.KeepAlive(ctx, id, nil); return err },
		"fork":       func(ctx context.Context, id dayfly.ID) error { _, err := w.Fork(ctx, id, 2); return err },
	}
	for name, one := range verbs {
		for other, two := range verbs {
			ws := w.create(base)
			var wg sync.WaitGroup
			for verb, f := range map[string]func(context.Context, dayfly.ID) error{name: one, other + "'": two} {
				wg.Go(func() {
					err := f(t.Context(), ws.ID)
					if k := dayfly.KindOf(err); k != "" && k != dayfly.Conflict && k != dayfly.NotFound {
						t.Errorf("%s against %s: %s: %v", name, other, verb, err)
					}
				})
			}
			wg.Wait()
			w.agree(ws.ID)
			if err := w.Delete(t.Context(), ws.ID); err != nil && dayfly.KindOf(err) != dayfly.NotFound {
				t.Errorf("%s against %s: delete: %v", name, other, err)
			}
		}
	}
}

func drop(f func(context.Context, dayfly.ID) (dayfly.Workspace, error)) func(context.Context, dayfly.ID) error {
	return func(ctx context.Context, id dayfly.ID) error { _, err := f(ctx, id); return err }
}

// agree fails unless node, record and view say the same of a workspace, now or
// soon.
func (w *world) agree(id dayfly.ID) {
	w.t.Helper()
	ws, err := w.node.Get(context.Background(), id)
	if err != nil {
		w.until(id, dayfly.Deleted)
		return
	}
	w.until(id, ws.State)
	if r := w.stored(id); r.State != ws.State {
		w.t.Errorf("the record of %s says %s, the node %s", id, r.State, ws.State)
	}
}

func TestForkMakesAllOrNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	parent := w.create(dayfly.Spec{Image: "base", Name: "eve", Metadata: map[string]string{"k": "v"}})
	kids, err := w.Fork(t.Context(), parent.ID, 3)
	if err != nil || len(kids) != 3 {
		t.Fatalf("%v, %v", kids, err)
	}
	for _, k := range kids {
		if k.State != dayfly.Running || !k.Ready || k.Name != "" || k.Spec.Metadata["k"] != "v" || k.Parent != string(parent.ID) || !w.stored(k.ID).Durable {
			t.Errorf("%+v", k)
		}
	}
	var mu sync.Mutex
	n := 0
	w.node.fails = func(string, dayfly.Workspace) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; n == 2 {
			return dayfly.Errorf(dayfly.Unavailable, "no memory")
		}
		return nil
	}
	_, err = w.Fork(t.Context(), parent.ID, 3)
	wantKind(t, err, dayfly.Unavailable)
	q, _ := w.db.Quota(t.Context(), "default")
	if q.Used.Workspaces != 4 || len(w.node.ids()) != 4 {
		t.Fatalf("left: %+v, %v", q.Used, w.node.ids())
	}
}

func TestOthersWorkspacesAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("mine", dayfly.Limits{})
	w.namespace("yours", dayfly.Limits{})
	ws, err := w.Create(in("yours"), dayfly.Spec{Image: "base", Name: "secret"}, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sn, err := w.Snapshot(in("yours"), ws.ID, "photo")
	if err != nil {
		t.Fatal(err)
	}
	ctx, id := in("mine"), ws.ID
	for name, f := range map[string]func() error{
		"get":             func() error { _, err := w.Get(ctx, id); return err },
		"resolve":         func() error { _, err := w.Resolve(ctx, string(id)); return err },
		"resolve name":    func() error { _, err := w.Resolve(ctx, "secret"); return err },
		"start":           func() error { _, err := w.Start(ctx, id); return err },
		"stop":            func() error { _, err := w.Stop(ctx, id); return err },
		"restart":         func() error { _, err := w.Restart(ctx, id); return err },
		"pause":           func() error { _, err := w.Pause(ctx, id); return err },
		"resume":          func() error { _, err := w.Resume(ctx, id); return err },
		"delete":          func() error { return w.Delete(ctx, id) },
		"update":          func() error { _, err := w.Update(ctx, id, dayfly.Update{}); return err },
		"keep-alive":      func() error { _, err := w.KeepAlive(ctx, id, nil); return err },
		"fork":            func() error { _, err := w.Fork(ctx, id, 1); return err },
		"rollback":        func() error { _, err := w.Rollback(ctx, id, dayfly.PreviousPause); return err },
		"snapshot":        func() error { _, err := w.Snapshot(ctx, id, ""); return err },
		"get snapshot":    func() error { _, err := w.GetSnapshot(ctx, string(sn.ID)); return err },
		"delete snapshot": func() error { return w.DeleteSnapshot(ctx, "photo") },
		"create from": func() error {
			_, err := w.Create(ctx, dayfly.Spec{Snapshot: string(sn.ID)}, dayfly.CreateOptions{})
			return err
		},
		"dial":      func() error { _, err := w.Dial(ctx, id, 80); return err },
		"log":       func() error { _, err := w.Log(ctx, id, dayfly.LogQuery{Source: dayfly.BootLog}); return err },
		"metrics":   func() error { _, err := w.Metrics(ctx, id); return err },
		"token":     func() error { _, err := w.CreateToken(ctx, id, 1e10); return err },
		"namespace": func() error { _, err := w.Namespace(ctx, "yours"); return err },
		"quota":     func() error { _, err := w.Quota(ctx, "yours"); return err },
	} {
		err := f()
		if dayfly.KindOf(err) != dayfly.NotFound || strings.Contains(err.Error(), "denied") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if page, err := w.List(ctx, dayfly.Query{Namespace: "yours"}); err != nil || len(page.Workspaces) != 0 {
		t.Errorf("list: %v, %v", page, err)
	}
	if list, err := w.Snapshots(ctx); err != nil || len(list) != 0 {
		t.Errorf("snapshots: %v, %v", list, err)
	}
	if list, err := w.Events(ctx, dayfly.EventQuery{Workspace: id}); err != nil || len(list) != 0 {
		t.Errorf("events: %v, %v", list, err)
	}
	if page, err := w.List(t.Context(), dayfly.Query{}); err != nil || len(page.Workspaces) != 1 {
		t.Errorf("an admin's list: %v, %v", page, err)
	}
	for name, err := range map[string]error{
		"keys": second(w.Keys(ctx)), "namespaces": second(w.Namespaces(ctx)),
		"create namespace": second(w.CreateNamespace(ctx, dayfly.Namespace{Name: "more"})),
		"create key":       third(w.CreateKey(ctx, dayfly.Key{Namespace: "mine"})),
	} {
		if dayfly.KindOf(err) != dayfly.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func TestSnapshotsHaveNamesOfTheirNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("a", dayfly.Limits{})
	w.namespace("b", dayfly.Limits{})
	var ids []dayfly.ID
	for _, ns := range []string{"a", "b"} {
		ws, err := w.Create(in(ns), dayfly.Spec{Image: "base", CPUs: 2}, dayfly.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sn, err := w.Snapshot(in(ns), ws.ID, "photo")
		if err != nil || sn.Name != "photo" {
			t.Fatalf("%+v, %v", sn, err)
		}
		ids = append(ids, sn.ID)
		_, err = w.Snapshot(in(ns), ws.ID, "photo")
		wantKind(t, err, dayfly.Conflict)
	}
	sn, err := w.GetSnapshot(in("b"), "photo")
	if err != nil || sn.ID != ids[1] || sn.FreeBytes != 7 {
		t.Fatalf("%+v, %v", sn, err)
	}
	ws, err := w.Create(in("b"), dayfly.Spec{Snapshot: "photo"}, dayfly.CreateOptions{})
	if err != nil || ws.Spec.Snapshot != string(ids[1]) || ws.Spec.CPUs != 2 {
		t.Fatalf("%+v, %v", ws, err)
	}
	if err := w.DeleteSnapshot(in("b"), "photo"); err != nil {
		t.Fatal(err)
	}
	if len(w.node.snaps) != 1 {
		t.Fatalf("the node has %v", w.node.snaps)
	}
	parent := sn.Workspace
	_, err = w.Rollback(in("b"), parent, "photo")
	wantKind(t, err, dayfly.NotFound)
	if list, err := w.Snapshots(t.Context()); err != nil || len(list) != 1 {
		t.Fatalf("an admin sees %v, %v", list, err)
	}
}

func TestUpdateChangesRulesNowAndResourcesAtTheNextStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("team", dayfly.Limits{WorkspaceCPUs: 4})
	ctx := in("team")
	ws, err := w.Create(ctx, dayfly.Spec{Image: "base", Name: "old"}, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name, cpus, many, timeout := "new", 3, 9, 60
	got, err := w.Update(ctx, ws.ID, dayfly.Update{Name: &name, CPUs: &cpus, Timeout: &timeout, Metadata: map[string]string{"a": "1"}})
	if err != nil || got.Name != "new" || got.Spec.CPUs != 3 || got.ExpiresAt == nil || got.Spec.Metadata["a"] != "1" {
		t.Fatalf("%+v, %v", got, err)
	}
	if in, _ := w.node.Get(ctx, ws.ID); in.Spec.CPUs != 1 {
		t.Fatalf("a running machine got %d CPUs", in.Spec.CPUs)
	}
	_, err = w.Update(ctx, ws.ID, dayfly.Update{CPUs: &many})
	wantKind(t, err, dayfly.Exhausted)
	if got, err = w.Update(ctx, ws.ID, dayfly.Update{Apply: true}); err != nil || got.State != dayfly.Running {
		t.Fatalf("%+v, %v", got, err)
	}
	if in, _ := w.node.Get(ctx, ws.ID); in.Spec.CPUs != 3 || in.Spec.Name != "new" {
		t.Fatalf("the node has %+v", in.Spec)
	}
	small := 64
	_, err = w.Update(ctx, ws.ID, dayfly.Update{DiskMiB: &small})
	wantKind(t, err, dayfly.Invalid)
	big := 16 << 10
	w.node.refuses = dayfly.Errorf(dayfly.Invalid, "the disk has layers")
	_, err = w.Update(ctx, ws.ID, dayfly.Update{DiskMiB: &big, Apply: true})
	wantKind(t, err, dayfly.Invalid)
	if got, err = w.Start(ctx, ws.ID); err != nil || got.Spec.DiskMiB == big {
		t.Fatalf("after a size that the host refused: %+v, %v", got, err)
	}
	other, err := w.Create(ctx, base, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Update(ctx, other.ID, dayfly.Update{Name: &name})
	wantKind(t, err, dayfly.Conflict)
}
