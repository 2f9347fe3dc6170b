package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/fake"
)

// layersOf counts the layers of a workspace's disk.
func (w *world) layersOf(t *testing.T, id dayfly.ID) int {
	t.Helper()
	layers, err := chain(workspaceDir(w.dir, id))
	if err != nil {
		t.Fatal(err)
	}
	return len(layers)
}

// merged waits for the merge that is under way.
func (w *world) merged(t *testing.T, id dayfly.ID) {
	t.Helper()
	for w.layersOf(t, id) > 2 {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSnapshotsWithoutEnd: more than a disk may have layers, and all that was
// kept is as it was then.
func TestSnapshotsWithoutEnd(t *testing.T) {
	t.Parallel()
	for _, above := range []int{2, 0, maxLayers} {
		t.Run("above "+layerPath("", above), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.mergeAbove = above
			n := w.node(t)
			kept := another()
			kept.Keep = true
			ws, err := n.Create(t.Context(), kept)
			if err != nil {
				t.Fatal(err)
			}
			snaps := map[string]dayfly.ID{}
			for i := range maxLayers + 10 {
				if i%20 > 0 {
					if err := n.snap(t.Context(), ws.ID); err != nil {
						t.Fatalf("photo %d: %v", i, err)
					}
					continue
				}
				note := layerPath("note", i)
				w.write(t, n, ws.ID, note)
				snap, err := n.Snapshot(t.Context(), ws.ID, "")
				if err != nil {
					t.Fatalf("snapshot %d: %v", i, err)
				}
				snaps[note] = snap.ID
			}
			w.write(t, n, ws.ID, theNote)
			w.check(t, n, ws.ID, dayfly.Running, theNote)
			for note, snap := range snaps {
				copied, err := n.Create(t.Context(), dayfly.Spec{Snapshot: string(snap)})
				if err != nil {
					t.Fatal(err)
				}
				w.check(t, n, copied.ID, dayfly.Running, note)
			}
			w.bring(t, n, ws.ID, dayfly.Paused)
			w.check(t, n, ws.ID, dayfly.Paused, theNote)
			for note, snap := range snaps {
				if _, err := n.Rollback(t.Context(), ws.ID, string(snap)); err != nil {
					t.Fatal(err)
				}
				w.check(t, n, ws.ID, dayfly.Running, note)
			}
		})
	}
}

// TestPausesWithoutEnd: each pause and its resume add a layer.
func TestPausesWithoutEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	for range maxLayers + 10 {
		w.bring(t, n, s.ID, dayfly.Paused)
		if _, err := n.Resume(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.check(t, n, s.ID, dayfly.Running, theNote)
	w.bring(t, n, s.ID, dayfly.Stopped)
	w.check(t, n, s.ID, dayfly.Stopped, theNote)
}

// TestMergedLayersAreGivenBack: they are gone from the directory, and what only
// the workspace had is counted no more.
func TestMergedLayersAreGivenBack(t *testing.T) {
	t.Parallel()
	if !layersAreThere() {
		return // a disk has none to merge
	}
	w := newWorld(t)
	w.mergeAbove = 4
	n := w.node(t)
	ws, err := n.Create(t.Context(), another())
	if err != nil {
		t.Fatal(err)
	}
	used := func() int64 {
		list, err := n.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list[slices.IndexFunc(list, func(u dayfly.Usage) bool { return u.Kind == "workspaces" })].Bytes
	}
	w.write(t, n, ws.ID, theNote)
	for range w.mergeAbove - 1 {
		if err := n.snap(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
	}
	before := used()
	if err := n.snap(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	w.merged(t, ws.ID)
	if after := used(); after >= before {
		t.Errorf("%d bytes are used, of %d before the merge", after, before)
	}
	w.check(t, n, ws.ID, dayfly.Running, theNote)
}

// mergeEnds are the ends that a merge may come to, all of which a workspace outlives.
var mergeEnds = []struct {
	name  string
	after bool
	end   func(*world, *testing.T, dayfly.ID) error
	state dayfly.State
}{
	{"fails", false, func(*world, *testing.T, dayfly.ID) error { return errBoom }, dayfly.Running},
	{"fails when it is done", true, func(*world, *testing.T, dayfly.ID) error { return errBoom }, dayfly.Running},
	{"VMM dies in it", false, killVMM, dayfly.Failed},
	{"VMM dies after it", true, killVMM, dayfly.Failed},
}

func killVMM(w *world, _ *testing.T, id dayfly.ID) error {
	w.mu.Lock()
	m := w.latest[string(id)]
	w.mu.Unlock()
	err := fake.Crash(m)
	<-m.Done()
	return err
}

func TestMergeThatComesToNoGoodEndLosesNothing(t *testing.T) {
	t.Parallel()
	if !layersAreThere() {
		return // a disk has none to merge
	}
	for _, e := range mergeEnds {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.mergeAbove = 2
			n := w.node(t)
			s := w.subject(t, n, dayfly.Running)
			ended := make(chan error, 1)
			w.once(point{table: "merge", row: "merge", after: e.after}, func(context.Context, point) error {
				err := e.end(w, t, s.ID)
				ended <- err
				return err
			})
			use := useNamed("merge")
			if err := use.do(t.Context(), n, s); err != nil && e.state == dayfly.Running {
				t.Error(err)
			}
			if err := <-ended; err != nil && !errors.Is(err, errBoom) {
				t.Fatal(err)
			}
			w.await(t, n, s.ID, e.state)
			w.check(t, n, s.ID, e.state, theNote)
			if err := use.do(t.Context(), n, s); err != nil {
				t.Error(err)
			}
			if _, err := n.Rollback(t.Context(), s.ID, string(s.Snapshot)); err != nil {
				t.Error(err)
			}
			w.check(t, n, s.ID, dayfly.Running, snapshotNote)
		})
	}
}

// TestPartOfWhatWasMergedIsLeft: a process died when it removed the layers, after
// each of them.
func TestPartOfWhatWasMergedIsLeft(t *testing.T) {
	t.Parallel()
	if !layersAreThere() {
		return // a disk has none to merge
	}
	for left := range 4 {
		t.Run(layerPath("left", left), func(t *testing.T) {
			t.Parallel()
			w := newServers(t)
			n := w.open(t)
			s := w.subject(t, n, dayfly.Running)
			for range 4 {
				if err := n.snap(t.Context(), s.ID); err != nil {
					t.Fatal(err)
				}
			}
			w.write(t, n, s.ID, theNote)
			w.mu.Lock()
			m := w.latest[string(s.ID)]
			w.mu.Unlock()
			layers, err := chain(workspaceDir(w.dir, s.ID))
			if err != nil {
				t.Fatal(err)
			}
			if err := m.(vmm.Merger).Merge(t.Context(), writable, 0); err != nil { //nolint:forcetypeassert // the fake one's are
				t.Fatal(err)
			}
			for _, path := range layers[1+left : len(layers)-1] {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			n = w.next(t, n)
			w.check(t, n, s.ID, dayfly.Running, theNote)
			if got := w.layersOf(t, s.ID); got != 2 {
				t.Errorf("it has %d layers", got)
			}
			if _, err := n.Rollback(t.Context(), s.ID, string(s.Snapshot)); err != nil {
				t.Error(err)
			}
			w.check(t, n, s.ID, dayfly.Running, snapshotNote)
			if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
				t.Error(err)
			}
			w.end(t, n, s.ID)
		})
	}
}

// TestUnusedLayerServesAgain: what a photo left that failed. The guest's writes
// are what the layer must not have; the fake one's layers hold all of a drive,
// so that the test lays an empty one in its place meanwhile.
func TestUnusedLayerServesAgain(t *testing.T) {
	t.Parallel()
	if !layersAreThere() {
		return // a disk has none to merge
	}
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	before := w.layersOf(t, s.ID)
	top := layerPath(workspaceDir(w.dir, s.ID), before-1)
	hook := func(_ context.Context, p point) error {
		if p.row != "layer" || p.table != "photo" {
			return nil
		}
		if p.after {
			return os.Rename(top+"-full", top)
		}
		return errors.Join(os.Rename(top, top+"-full"), vmm.CreateLayer(top, diskBytes))
	}
	w.hook.Store(&hook)
	for range 3 {
		if err := n.snap(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.hook.Store(nil)
	if got := w.layersOf(t, s.ID); got != before {
		t.Errorf("it has %d layers, and had %d", got, before)
	}
	w.check(t, n, s.ID, dayfly.Running, theNote)
}

func TestMergeTakesNoMoreThanItsShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		io     IO
		urgent bool
		want   int64
	}{
		{IO{}, false, mergeSpeed},
		{IO{}, true, 0},
		{IO{Read: 4 << 20}, false, 1 << 20},
		{IO{Read: 4 << 20, Write: 2 << 20}, false, 512 << 10},
		{IO{Read: 4 << 20, Write: 2 << 20}, true, 1 << 20},
		{IO{Write: 1 << 40}, false, mergeSpeed},
		{IO{Write: 1}, false, 1},
	} {
		if got := c.io.forMerge(c.urgent); got != c.want {
			t.Errorf("%+v, urgent %t: %d bytes a second, want %d", c.io, c.urgent, got, c.want)
		}
	}
}

func TestMergeLeavesRoom(t *testing.T) {
	t.Parallel()
	needs.Mount(t)
	dir := t.TempDir()
	if err := unix.Mount("merge", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	layers := []string{filepath.Join(dir, "top"), filepath.Join(dir, "between"), filepath.Join(dir, "lowest")}
	for _, c := range []struct {
		between int
		fits    bool
	}{{0, true}, {512 << 10, true}, {2 << 20, false}} {
		for i, size := range []int{64 << 10, c.between, 1 << 20} {
			if err := os.WriteFile(layers[i], make([]byte, size), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := roomToMerge(layers); (err == nil) != c.fits || err != nil && dayfly.KindOf(err) != dayfly.Exhausted {
			t.Errorf("with %d bytes between: %v", c.between, err)
		}
	}
}
