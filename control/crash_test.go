package control_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/store"
)

// TestKilledServerLosesNothing kills a Control at random calls during a load of
// creates, stops, starts, forks and deletes, opens another, and looks at what
// there is.
func TestKilledServerLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *control.Options) { o.Starts = 4 })
	w.close()
	plain := w.opt
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	known := &acks{is: map[dayfly.ID]bool{}}
	for range 25 {
		f := &fuse{left: rng.IntN(60), rng: rng}
		w.opt = plain
		w.opt.Store, w.opt.Node = fusedStore{w.db, f}, fusedNode{w.node, f}
		f.left += 10_000 // not while it settles
		w.open()
		f.mu.Lock()
		f.left = rng.IntN(60)
		f.mu.Unlock()
		w.load(f, known)
		w.close()

		w.opt = plain
		w.open()
		w.intact(known)
		w.close()
	}
	w.open() // for the clean-up
	if len(known.is) == 0 {
		t.Error("nothing was ever acknowledged")
	}
}

// acks is what callers were told: true, it is there; false, it is gone.
type acks struct {
	mu sync.Mutex
	is map[dayfly.ID]bool
}

func (a *acks) told(f *fuse, id dayfly.ID, there bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case f.dead(): // nobody was told
		if !there {
			delete(a.is, id) // may be either
		}
	case err == nil:
		a.is[id] = there
	case !there:
		delete(a.is, id)
	}
}

func (a *acks) some() dayfly.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, there := range a.is {
		if there {
			return id
		}
	}
	return ""
}

// load has callers do things until the fuse blows.
func (w *world) load(f *fuse, known *acks) {
	var wg sync.WaitGroup
	for n := range 4 {
		rng := rand.New(rand.NewPCG(uint64(n), uint64(time.Now().UnixNano())))
		wg.Go(func() {
			for !f.dead() {
				w.act(f, known, rng)
			}
		})
	}
	wg.Wait()
}

func (w *world) act(f *fuse, known *acks, rng *rand.Rand) {
	ctx := context.Background()
	id := known.some()
	if id == "" || rng.IntN(3) == 0 {
		o := dayfly.CreateOptions{}
		if rng.IntN(2) == 0 {
			o.Wait = dayfly.WaitCreated
		}
		if rng.IntN(2) == 0 {
			o.Once = string(dayfly.NewID())
		}
		ws, err := w.Create(ctx, base, o)
		known.told(f, ws.ID, true, err)
		return
	}
	switch rng.IntN(5) {
	case 0:
		known.mu.Lock()
		delete(known.is, id) // from here on it may be either
		known.mu.Unlock()
		err := w.Delete(ctx, id)
		known.told(f, id, false, err)
	case 1:
		_, _ = w.Stop(ctx, id)
	case 2:
		_, _ = w.Start(ctx, id)
	case 3:
		_, _ = w.Pause(ctx, id)
	case 4:
		list, err := w.Fork(ctx, id, 2)
		for _, ws := range list {
			known.told(f, ws.ID, true, err)
		}
	}
}

// intact fails unless store, node and what callers were told agree, soon.
func (w *world) intact(known *acks) {
	w.t.Helper()
	var why string
	for range 1000 {
		if why = w.disagreement(known); why == "" {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	w.t.Fatal(why)
}

func (w *world) disagreement(known *acks) string {
	ctx := context.Background()
	var recorded []dayfly.ID
	var sum dayfly.Amounts
	err := w.db.Each(ctx, func(r store.Record) error {
		sum.Workspaces++
		sum.DiskMiB += r.Spec.DiskMiB
		if r.State == dayfly.Running || r.State == dayfly.Creating {
			sum.Running++
			sum.CPUs += r.Spec.CPUs
			sum.MemoryMiB += r.Spec.MemoryMiB
		}
		recorded = append(recorded, r.ID)
		if ws, err := w.node.Get(ctx, r.ID); err != nil || ws.State != r.State {
			return dayfly.Errorf(dayfly.Conflict, "%s is %s (%s) in the store, at the node %s, %v", r.ID, r.State, r.Reason, ws.State, err)
		}
		if got, err := w.Get(ctx, r.ID); err != nil || got.State != r.State {
			return dayfly.Errorf(dayfly.Conflict, "%s is %s in the store, callers see %s, %v", r.ID, r.State, got.State, err)
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	slices.Sort(recorded)
	if ids := w.node.ids(); !slices.Equal(ids, recorded) {
		return dayfly.Errorf(dayfly.Conflict, "the node has %v, the store %v", ids, recorded).Error()
	}
	if q, err := w.db.Quota(ctx, "default"); err != nil || q.Used != sum {
		return dayfly.Errorf(dayfly.Conflict, "quota %+v, there are %+v, %v", q.Used, sum, err).Error()
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	for id, there := range known.is {
		if slices.Contains(recorded, id) != there {
			return dayfly.Errorf(dayfly.Conflict, "%s: callers were told %v", id, there).Error()
		}
	}
	return ""
}

func TestHalfDoneCreationGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.close()
	put := func(durable bool, reason string, state dayfly.State) dayfly.ID {
		ws := dayfly.Workspace{ID: dayfly.NewID(), State: state, Reason: reason, Namespace: "default", CreatedAt: time.Now()}
		ws.Spec, _ = base.Normal()
		if state != dayfly.Creating {
			ws.StartKind = dayfly.Cold
		}
		if _, _, err := w.db.Create(t.Context(), store.Creation{Records: []store.Record{{Workspace: ws, Durable: durable}}}); err != nil {
			t.Fatal(err)
		}
		return ws.ID
	}
	told, untold := put(true, "", dayfly.Creating), put(false, "", dayfly.Creating)
	half, lost := put(true, "it is being deleted", dayfly.Stopped), put(true, "", dayfly.Running)
	w.open()
	w.until(told, dayfly.Running)
	w.until(untold, dayfly.Deleted)
	w.until(half, dayfly.Deleted)
	ws := w.until(lost, dayfly.Failed)
	if ws.Reason == "" {
		t.Error("it is not said why")
	}
	_, err := w.Start(t.Context(), lost)
	wantKind(t, err, dayfly.Conflict)
	if err := w.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
}

func TestWhatHappenedWhileTheServerWasAwayIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	on, failed := w.create(base), w.create(base)
	events := len(w.events(on.ID))
	w.close()
	w.node.die(t, failed.ID)
	w.open()
	w.is(on.ID, dayfly.Running)
	w.is(failed.ID, dayfly.Failed)
	if ws := w.get(on.ID); !ws.Ready || len(w.events(on.ID)) != events {
		t.Errorf("one that went on: %+v, %v", ws, w.events(on.ID))
	}
}

func TestStoreThatIsAwayStopsPlacementsOnly(t *testing.T) {
	var away *awayStore
	rules(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		ws := w.create(base)
		paused := w.create(dayfly.Spec{Image: "base", Idle: dayfly.Idle{PauseAfter: 30}})
		doomed, expiring := w.create(base), w.create(dayfly.Spec{Image: "base", Timeout: 20})
		stopped := w.create(base)
		if _, err := w.Stop(ctx, stopped.ID); err != nil {
			t.Fatal(err)
		}
		away.set(true)
		_, err := w.Create(ctx, base, dayfly.CreateOptions{})
		wantKind(t, err, dayfly.Unavailable)
		_, err = w.Create(ctx, base, dayfly.CreateOptions{Once: "key"})
		wantKind(t, err, dayfly.Unavailable)
		_, err = w.Start(ctx, stopped.ID)
		wantKind(t, err, dayfly.Unavailable)
		_, err = w.Fork(ctx, ws.ID, 2)
		wantKind(t, err, dayfly.Unavailable)
		wantKind(t, w.Ready(ctx), dayfly.Unavailable)
		conn, err := w.Dial(ctx, ws.ID, 80)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if _, err := w.Stop(ctx, ws.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.Delete(ctx, doomed.ID); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		w.is(ws.ID, dayfly.Stopped)
		w.is(paused.ID, dayfly.Paused)
		if ids := w.node.ids(); slices.Contains(ids, expiring.ID) || slices.Contains(ids, doomed.ID) {
			t.Error("the node still has what has expired, or was deleted")
		}
		away.set(false)
		after(3 * time.Second)
		for id, s := range map[dayfly.ID]dayfly.State{ws.ID: dayfly.Stopped, paused.ID: dayfly.Paused, stopped.ID: dayfly.Stopped} {
			if r := w.stored(id); r.State != s {
				t.Errorf("stored: %s, not %s", r.State, s)
			}
		}
		w.is(expiring.ID, dayfly.Deleted)
		w.is(doomed.ID, dayfly.Deleted)
		if q, err := w.db.Quota(ctx, "default"); err != nil || q.Used.Workspaces != 3 || q.Used.Running != 0 {
			t.Errorf("%+v, %v", q, err)
		}
		if n := count(w.events(ws.ID), dayfly.WorkspaceStopped); n != 1 {
			t.Errorf("the stop was told %d times", n)
		}
		w.create(base)
	}, func(o *control.Options) {
		away = &awayStore{Store: o.Store.(*store.Store)}
		o.Store = away
	})
}

func TestServerStartsWithoutItsStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ws := w.create(base)
	w.close()
	away := &awayStore{Store: w.db, gone: true}
	w.opt.Store = away
	c, err := control.Open(t.Context(), w.opt)
	if err != nil {
		t.Fatal(err)
	}
	w.Control = c
	_, err = c.Get(t.Context(), ws.ID)
	wantKind(t, err, dayfly.Unavailable)
	wantKind(t, c.Ready(t.Context()), dayfly.Unavailable)
	away.set(false)
	w.settled()
	w.is(ws.ID, dayfly.Running)
}

func TestStoreThatHangsDelaysNoRule(t *testing.T) {
	var away *awayStore
	rules(t, func(t *testing.T, w *world) {
		gone := w.create(dayfly.Spec{Image: "base", Timeout: 30})
		rest := w.create(dayfly.Spec{Image: "base", Timeout: 30, OnTimeout: dayfly.StopIt})
		away.hang(true)
		name := "new"
		updated := make(chan error, 1)
		go func() {
			_, err := w.Update(context.Background(), gone.ID, dayfly.Update{Name: &name})
			updated <- err
		}()
		after(31 * time.Second)
		w.is(rest.ID, dayfly.Stopped)
		w.is(gone.ID, dayfly.Deleted)
		if ids := w.node.ids(); slices.Contains(ids, gone.ID) {
			t.Error("the node still has it")
		}
		if p, err := w.List(t.Context(), dayfly.Query{}); err != nil || len(p.Workspaces) != 1 || p.Workspaces[0].ID != rest.ID {
			t.Errorf("listed while the record of what is gone waits for the store: %+v, %v", p, err)
		}
		wantKind(t, <-updated, dayfly.Unavailable)
		away.hang(false)
		after(15 * time.Second)
		if q, err := w.db.Quota(t.Context(), "default"); err != nil || q.Used.Workspaces != 1 || q.Used.Running != 0 {
			t.Errorf("%+v, %v", q, err)
		}
	}, func(o *control.Options) {
		away = &awayStore{Store: o.Store.(*store.Store)}
		o.Store = away
	})
}
