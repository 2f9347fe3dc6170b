package control_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
)

// creation is something that can be made once. n tells requests apart.
type creation struct {
	make   func(w *world, ctx context.Context, of dayfly.ID, n int) (string, error)
	count  func(w *world) int
	remove func(w *world, id string) error
	secret bool // it cannot be told again
}

var ctx = context.Background()

// creations are all that there are.
var creations = map[string]creation{
	"workspace": {
		make: func(w *world, ctx context.Context, _ dayfly.ID, n int) (string, error) {
			ws, err := w.Create(ctx, dayfly.Spec{Image: "base", CPUs: n}, dayfly.CreateOptions{Once: dayfly.CallerOf(ctx).Once})
			return string(ws.ID), err
		},
		count:  func(w *world) int { return len(w.node.ids()) },
		remove: func(w *world, id string) error { return w.Delete(ctx, dayfly.ID(id)) },
	},
	"fork": {
		make: func(w *world, ctx context.Context, of dayfly.ID, n int) (string, error) {
			list, err := w.Fork(ctx, of, n)
			if err != nil {
				return "", err
			}
			if len(list) != n || !list[0].Ready {
				w.t.Errorf("%d copies of %d: %+v", len(list), n, list)
			}
			return string(list[0].ID), nil
		},
		count:  func(w *world) int { return len(w.node.ids()) },
		remove: func(w *world, id string) error { return w.Delete(ctx, dayfly.ID(id)) },
	},
	"snapshot": {
		make: func(w *world, ctx context.Context, of dayfly.ID, n int) (string, error) {
			sn, err := w.Snapshot(ctx, of, fmt.Sprint("at", n))
			return string(sn.ID), err
		},
		count:  func(w *world) int { list, _ := w.node.Snapshots(ctx); return len(list) },
		remove: func(w *world, id string) error { return w.DeleteSnapshot(ctx, id) },
	},
	"key": {
		make: func(w *world, ctx context.Context, _ dayfly.ID, n int) (string, error) {
			k, _, err := w.CreateKey(ctx, dayfly.Key{Name: fmt.Sprint("key", n)})
			return k.ID, err
		},
		count:  func(w *world) int { list, _ := w.Keys(ctx); return len(list) },
		remove: func(w *world, id string) error { return w.RevokeKey(ctx, id) },
		secret: true,
	},
	"namespace": {
		make: func(w *world, ctx context.Context, _ dayfly.ID, n int) (string, error) {
			ns, err := w.CreateNamespace(ctx, dayfly.Namespace{Name: fmt.Sprint("ns", n)})
			return ns.Name, err
		},
		count:  func(w *world) int { list, _ := w.Namespaces(ctx); return len(list) },
		remove: func(w *world, id string) error { return w.DeleteNamespace(ctx, id) },
	},
	"webhook": {
		make: func(w *world, ctx context.Context, _ dayfly.ID, n int) (string, error) {
			hook, err := w.CreateWebhook(ctx, dayfly.Webhook{URL: fmt.Sprint("http://127.0.0.1/", n)})
			if err == nil && hook.Secret == "" {
				w.t.Error("a webhook without its secret")
			}
			return hook.ID, err
		},
		count:  func(w *world) int { list, _ := w.Webhooks(ctx); return len(list) },
		remove: func(w *world, id string) error { return w.DeleteWebhook(ctx, id) },
	},
}

// once is the host's own user with an idempotency key.
func once(key string) context.Context { return as(dayfly.Caller{Once: key}) }

func eachCreation(t *testing.T, f func(*testing.T, creation, *world, dayfly.ID)) {
	t.Parallel()
	for name, what := range creations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, private, func(o *control.Options) { o.Starts = 4 })
			f(t, what, w, w.create(base).ID)
		})
	}
}

// repeated fails unless a request that was made before is answered as it was.
func (what creation) repeated(w *world, of dayfly.ID, first string) {
	w.t.Helper()
	again, err := what.make(w, once("key"), of, 1)
	if what.secret {
		wantKind(w.t, err, dayfly.Conflict)
		if !contains(err, first) {
			w.t.Fatalf("it is not said which it is: %v", err)
		}
		return
	}
	if err != nil || again != first {
		w.t.Fatalf("%s and then %s, %v", first, again, err)
	}
}

func contains(err error, text string) bool {
	var e *dayfly.Error
	return errors.As(err, &e) && text != "" && strings.Contains(e.Msg, text)
}

func TestRepeatedCreationIsMadeOnce(t *testing.T) {
	eachCreation(t, func(t *testing.T, what creation, w *world, of dayfly.ID) {
		first, err := what.make(w, once("key"), of, 1)
		if err != nil {
			t.Fatal(err)
		}
		n := what.count(w)
		what.repeated(w, of, first)
		w.reopen()
		what.repeated(w, of, first)
		_, err = what.make(w, once("key"), of, 2)
		wantKind(t, err, dayfly.Conflict)
		if got := what.count(w); got != n {
			t.Fatalf("there were %d, now %d", n, got)
		}
		if second, err := what.make(w, once("other"), of, 2); err != nil || second == first {
			t.Fatalf("another key: %s, %v", second, err)
		}
		if err := what.remove(w, first); err != nil {
			t.Fatal(err)
		}
		_, err = what.make(w, once("key"), of, 1)
		wantKind(t, err, dayfly.Conflict)
	})
}

// TestRepeatedCreationIsToldThoughItsParentIsGone: but not to others.
func TestRepeatedCreationIsToldThoughItsParentIsGone(t *testing.T) {
	for _, name := range []string{"fork", "snapshot"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			what, w := creations[name], newWorld(t)
			of := w.create(base).ID
			first, err := what.make(w, once("key"), of, 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Delete(ctx, of); err != nil {
				t.Fatal(err)
			}
			what.repeated(w, of, first)
			w.reopen()
			what.repeated(w, of, first)
			for _, c := range []dayfly.Caller{{Once: "other"}, {Once: "key", Namespace: "other", Bound: true}, {Once: "key", Workspace: of}, {}} {
				_, err := what.make(w, as(c), of, 1)
				wantKind(t, err, dayfly.NotFound)
			}
		})
	}
}

func TestCreationsAtOnceWithOneKeyMakeOne(t *testing.T) {
	eachCreation(t, func(t *testing.T, what creation, w *world, of dayfly.ID) {
		n := what.count(w)
		var wg sync.WaitGroup
		ids, errs := make([]string, 8), make([]error, 8)
		for i := range ids {
			wg.Go(func() { ids[i], errs[i] = what.make(w, once("key"), of, 1) })
		}
		wg.Wait()
		made := map[string]bool{}
		for i, id := range ids {
			if errs[i] == nil {
				made[id] = true
			} else if !what.secret {
				t.Error(errs[i])
			}
		}
		if len(made) != 1 || what.count(w) != n+1 {
			t.Fatalf("%v; there were %d, now %d", made, n, what.count(w))
		}
	})
}

// TestKeyOfOneKindOfCreationIsNotForAnother: the request is another one.
func TestKeyOfOneKindOfCreationIsNotForAnother(t *testing.T) {
	eachCreation(t, func(t *testing.T, what creation, w *world, of dayfly.ID) {
		if _, err := what.make(w, once("key"), of, 1); err != nil {
			t.Fatal(err)
		}
		for name, other := range creations {
			before := other.count(w)
			_, err := other.make(w, once("key"), of, 2)
			wantKind(t, err, dayfly.Conflict)
			if other.count(w) != before {
				t.Errorf("a %s was made", name)
			}
		}
	})
}

func TestForkThatFailsFreesItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	of := w.create(base).ID
	broken := &dayfly.Error{Kind: dayfly.Unavailable, Stage: "vmm", Msg: "no VMM"}
	w.node.fails = func(string, dayfly.Workspace) error { return broken }
	_, err := w.Fork(once("key"), of, 2)
	wantKind(t, err, dayfly.Unavailable)
	w.node.fails = nil
	if list, err := w.Fork(once("key"), of, 2); err != nil || len(list) != 2 || len(w.node.ids()) != 3 {
		t.Fatalf("%d copies, %v; at the node %v", len(list), err, w.node.ids())
	}
}

// TestForkThatAKillCutsOffIsAllOrNothing, wherever it is cut off: whoever asks
// again with the same key has what was asked for, and nothing else is left.
func TestForkThatAKillCutsOffIsAllOrNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *control.Options) { o.Starts = 4 })
	of := w.create(base).ID
	whole := 0
	for cut := range 16 {
		key := once(fmt.Sprint("key", cut))
		var told []dayfly.Workspace
		var err error
		w.cutAfter(cut, func(f *fuse) {
			if told, err = w.Fork(key, of, 3); f.dead() {
				told = nil // by a process that is dead
			}
		})
		list, again := w.Fork(key, of, 3)
		if again != nil || len(list) != 3 || len(told) > 0 && list[0].ID != told[0].ID {
			t.Fatalf("cut off after %d calls: %v, then %v, %v", cut, err, list, again)
		}
		w.only(append(idsOf(list), of))
		if told != nil {
			whole++
		}
		for _, ws := range list {
			if err := w.Delete(ctx, ws.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if whole == 0 || whole == 16 {
		t.Errorf("%d of 16 were cut off", 16-whole)
	}
}

// cutAfter has a server do something that dies after so many calls, and opens the
// next one.
func (w *world) cutAfter(calls int, do func(*fuse)) {
	f := &fuse{left: 10_000, rng: rand.New(rand.NewPCG(uint64(calls), uint64(time.Now().UnixNano())))}
	plain := w.opt
	w.close()
	w.opt.Store, w.opt.Node = fusedStore{w.db, f}, fusedNode{w.node, f}
	w.open()
	f.mu.Lock()
	f.left = calls
	f.mu.Unlock()
	do(f)
	w.close()
	w.opt = plain
	w.open()
}

// TestSnapshotThatAKillCutsOffIsMadeOnce, wherever it is cut off: whoever asks
// again with the same key has one, and there is no other.
func TestSnapshotThatAKillCutsOffIsMadeOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	of := w.create(base).ID
	whole := 0
	const rounds = 12
	for round := range rounds {
		key := once(fmt.Sprint("key", round))
		var told dayfly.Snapshot
		w.cutAfter(round%6, func(f *fuse) {
			if told, _ = w.Snapshot(key, of, "one"); f.dead() {
				told = dayfly.Snapshot{}
			}
		})
		sn, err := w.Snapshot(key, of, "one")
		if err != nil || told.ID != "" && sn.ID != told.ID {
			t.Fatalf("cut off after %d calls: %q, then %q, %v", round%6, told.ID, sn.ID, err)
		}
		list, err := w.node.Snapshots(ctx)
		if err != nil || len(list) != 1 || list[0].ID != sn.ID {
			t.Fatalf("cut off after %d calls: the node has %v, %v", round%6, list, err)
		}
		if left, err := w.db.SnapshotsUnderWay(ctx); err != nil || len(left) != 0 {
			t.Fatalf("under way: %v, %v", left, err)
		}
		if told.ID != "" {
			whole++
		}
		if err := w.DeleteSnapshot(ctx, "one"); err != nil {
			t.Fatal(err)
		}
	}
	if whole == 0 || whole == rounds {
		t.Errorf("%d of %d were cut off", rounds-whole, rounds)
	}
}

func idsOf(list []dayfly.Workspace) (ids []dayfly.ID) {
	for _, ws := range list {
		ids = append(ids, ws.ID)
	}
	return ids
}

// only fails unless these workspaces, and no others, are there soon.
func (w *world) only(ids []dayfly.ID) {
	w.t.Helper()
	slices.Sort(ids)
	for range 1000 {
		if slices.Equal(w.node.ids(), ids) {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	w.t.Fatalf("the node has %v, not %v", w.node.ids(), ids)
}

// TestSecretOfAWebhookIsForItsMaker: the idempotency key alone does not show it.
func TestSecretOfAWebhookIsForItsMaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, private)
	w.namespace("team", dayfly.Limits{})
	hook := dayfly.Webhook{URL: "http://127.0.0.1/"}
	ask := func(key string) (dayfly.Webhook, error) {
		return w.CreateWebhook(as(dayfly.Caller{Key: key, Namespace: "team", Bound: true, Once: "key"}), hook)
	}
	first, err := ask("maker")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ask("maker"); err != nil || again.Secret != first.Secret {
		t.Fatalf("%+v, %v", again, err)
	}
	_, err = ask("another")
	wantKind(t, err, dayfly.Conflict)
}
