package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestForksAreWorkspacesOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	named := another()
	named.Name, named.Env = "parent", map[string]string{"A": "b"}
	parent, err := n.Create(t.Context(), named)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, n, parent.ID, theNote)
	children, err := n.Fork(t.Context(), parent.ID, 3)
	if err != nil || len(children) != 3 {
		t.Fatalf("Fork = %+v, %v", children, err)
	}
	keys, generations := [][]byte{w.keyOf(t, parent.ID)}, map[string]bool{}
	for i, c := range children {
		if c.Parent != string(parent.ID) || c.Name != "" || c.StartKind != dayfly.Forked || c.State != dayfly.Running || c.Spec.Env["A"] != "b" {
			t.Errorf("child is %+v", c)
		}
		m := w.read(t, n, c.ID)
		if m.ID != string(c.ID) || m.Note != theNote || m.Disk != theNote || m.Frozen || generations[m.Generation] || m.Generation == "" {
			t.Errorf("child %s has %+v", c.ID, m)
		}
		generations[m.Generation] = true
		key := w.keyOf(t, c.ID)
		for _, other := range keys {
			if bytes.Equal(key, other) {
				t.Error("two workspaces have the same wrap of their key")
			}
		}
		keys = append(keys, key)
		w.write(t, n, c.ID, "child "+string(rune('a'+i)))
	}
	w.check(t, n, parent.ID, dayfly.Running, theNote)
	for i, c := range children {
		note := "child " + string(rune('a'+i))
		w.check(t, n, c.ID, dayfly.Running, note)
		w.bring(t, n, c.ID, dayfly.Paused)
		w.check(t, n, c.ID, dayfly.Paused, note)
	}
}

// keyOf is the wrapped key of a workspace.
func (w *world) keyOf(t *testing.T, id dayfly.ID) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(workspaceDir(w.dir, id), keyFile))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestForksAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	before := w.files(t)
	for _, count := range []int{-1, 0, dayfly.MaxFork + 1} {
		if _, err := n.Fork(t.Context(), s.ID, count); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("Fork into %d = %v", count, err)
		}
	}
	w.same(t, before, use{})
	w.check(t, n, s.ID, dayfly.Running, theNote)
}

// TestForkIsAllOrNothing: the last of many children fails.
func TestForkIsAllOrNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	before := w.files(t)
	const count = 5
	var thawed atomic.Int32
	hook := func(_ context.Context, p point) error {
		if p.table == "revival" && p.row == "thaw" && p.after && thawed.Add(1) == count {
			return errBoom
		}
		return nil
	}
	w.hook.Store(&hook)
	if children, err := n.Fork(t.Context(), s.ID, count); !errors.Is(err, errBoom) || children != nil {
		t.Errorf("Fork = %+v, %v", children, err)
	}
	w.hook.Store(nil)
	w.same(t, before, use{name: "fork"})
	if got := w.running(); got != 1 {
		t.Errorf("%d machines run", got)
	}
	w.check(t, n, s.ID, dayfly.Running, theNote)
}

// TestDiskOfManyLayersIsRefusedBeforeAnythingStops: at its last layer a workspace
// whose layers cannot be merged goes on, and says what to do.
func TestDiskOfManyLayersIsRefusedBeforeAnythingStops(t *testing.T) {
	t.Parallel()
	if !layersAreThere() {
		return // a disk has none, however often it is copied
	}
	w := newWorld(t)
	w.breaks("merge", -1)
	n := w.node(t)
	ws, err := n.Create(t.Context(), another())
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, n, ws.ID, theNote)
	for range maxLayers - 1 {
		if err := n.snap(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
	}
	before := w.files(t)
	for _, u := range uses {
		if u.table != "pause" && u.table != "photo" {
			continue
		}
		if err := u.do(t.Context(), n, subject{ID: ws.ID}); dayfly.KindOf(err) != dayfly.Exhausted {
			t.Errorf("%s = %v", u.name, err)
		}
	}
	w.same(t, before, use{})
	w.check(t, n, ws.ID, dayfly.Running, theNote)
}

func TestSnapshotNamesAreUnique(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	take := func() error { _, err := n.Snapshot(t.Context(), s.ID, "name"); return err }
	won := 0
	for _, err := range both(take, take, take) {
		if err == nil {
			won++
		}
		orRefused(t, "Snapshot", err, dayfly.Conflict)
	}
	if won != 1 {
		t.Errorf("%d snapshots have the same name", won)
	}
	list, err := n.Snapshots(t.Context())
	if err != nil || len(list) != won+1 {
		t.Errorf("Snapshots = %+v, %v", list, err)
	}
}

// TestSnapshotThatCannotBeKeptLeavesNothing: what fails once the workspace goes
// on again.
func TestSnapshotThatCannotBeKeptLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	before := w.files(t)
	w.breaks("adopt key", 1)
	if _, err := n.Snapshot(t.Context(), s.ID, "name"); !errors.Is(err, errBoom) {
		t.Errorf("Snapshot = %v", err)
	}
	w.same(t, before, use{table: "photo"})
	ctx, cancel := context.WithCancel(t.Context())
	w.once(point{table: "photo", row: "go on", after: true}, func(context.Context, point) error { cancel(); return nil })
	if _, err := n.Snapshot(ctx, s.ID, "name"); !errors.Is(err, context.Canceled) {
		t.Errorf("Snapshot, cancelled = %v", err)
	}
	w.same(t, before, use{table: "photo"})
	w.check(t, n, s.ID, dayfly.Running, theNote)
	if _, err := n.Snapshot(t.Context(), s.ID, "name"); err != nil {
		t.Errorf("Snapshot, once more = %v", err)
	}
}
