package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// The tests that make a template run programs. They are not parallel: a child
// between fork and exec holds all locks of this process.

func TestManyStartsMakeOneTemplate(t *testing.T) { //nolint:paralleltest // see above
	w := newWorldIn(t, t.TempDir())
	n, other := w.node(t), w.node(t) // two processes, as far as locks can tell
	const each = 3
	var wg sync.WaitGroup
	for _, n := range []*Node{n, other} {
		for range each {
			wg.Go(func() {
				ws, err := n.Create(t.Context(), another())
				if err != nil || ws.StartKind != dayfly.Restore || ws.StartNote != "" {
					t.Errorf("Create = %+v, %v", ws, err)
				}
			})
		}
	}
	wg.Wait()
	if count, _, err := n.templates.Usage(); err != nil || count != 1 {
		t.Errorf("there are %d templates, %v", count, err)
	}
	if got := len(w.machines); got != 2*each+1 {
		t.Errorf("%d machines were made for %d starts and a template", got, 2*each)
	}
}

func TestStartWithoutATemplateIsColdAndSaysWhy(t *testing.T) { //nolint:paralleltest // see above
	for _, fault := range []string{"launch", "save", "boot", wire.RehearsePath} {
		t.Run(strings.Trim(fault, "/"), func(t *testing.T) {
			w := newWorldIn(t, t.TempDir())
			n := w.node(t)
			w.breaks(fault, 1)
			ws, err := n.Create(t.Context(), another())
			if err != nil || ws.StartKind != dayfly.Cold || !strings.Contains(ws.StartNote, "no template") {
				t.Fatalf("Create = %+v, %v", ws, err)
			}
			w.write(t, n, ws.ID, theNote)
			w.check(t, n, ws.ID, dayfly.Running, theNote)
			if count, _, err := n.templates.Usage(); err != nil || count != 0 || w.running() != 1 || w.count(t, "workspaces") != 1 {
				t.Errorf("left behind: %d templates, %d machines, %d homes, %v", count, w.running(), w.count(t, "workspaces"), err)
			}
		})
	}
}

func TestTemplateThatCannotBeRestoredIsNoReasonNotToStart(t *testing.T) {
	t.Parallel()
	for fault, note := range map[string]string{"launch": "could not be restored", "boot": "did not answer"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			w.breaks(fault, 1)
			ws, err := n.Create(t.Context(), another())
			if err != nil || ws.StartKind != dayfly.Cold || !strings.Contains(ws.StartNote, note) || w.running() != 1 {
				t.Fatalf("Create = %+v, %v", ws, err)
			}
			w.write(t, n, ws.ID, theNote)
			w.bring(t, n, ws.ID, dayfly.Paused)
			w.check(t, n, ws.ID, dayfly.Paused, theNote)
		})
	}
}

func TestSecondStartOfAnImagePreparesTheThird(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	img := another()
	var last dayfly.Workspace
	for range 3 {
		ws, err := n.Create(t.Context(), img)
		if err != nil || ws.StartKind != dayfly.Restore {
			t.Fatalf("Create = %+v, %v", ws, err)
		}
		if m := w.read(t, n, ws.ID); m.ID != string(ws.ID) || m.Resting || m.Note != "" {
			t.Errorf("it has %+v", m)
		}
		w.write(t, n, ws.ID, theNote) // which no later one may have
		last = ws
	}
	if count, _, err := n.templates.Usage(); err != nil || count != 2 {
		t.Errorf("there are %d templates, %v", count, err)
	}
	w.bring(t, n, last.ID, dayfly.Paused)
	w.check(t, n, last.ID, dayfly.Paused, theNote)
	w.bring(t, n, last.ID, dayfly.Stopped)
	w.check(t, n, last.ID, dayfly.Stopped, theNote)
}

func TestPreparedTemplateThatCannotBeRestoredLeavesAnEmptyDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	img := another()
	for range 2 {
		if _, err := n.Create(t.Context(), img); err != nil {
			t.Fatal(err)
		}
	}
	for _, fault := range []string{"launch", "boot"} {
		w.breaks(fault, 1)
		ws, err := n.Create(t.Context(), img)
		if err != nil || ws.StartKind != dayfly.Cold {
			t.Fatalf("Create = %+v, %v", ws, err)
		}
		w.write(t, n, ws.ID, theNote)
		w.check(t, n, ws.ID, dayfly.Running, theNote)
	}
}

func TestPruneDoesNotHarmWhatBeganAsATemplate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	before, err := n.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	back, err := n.Prune(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, err := n.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range before {
		var given dayfly.Usage
		for _, b := range back {
			if b.Kind == u.Kind {
				given = b
			}
		}
		if given.Bytes != u.Reclaimable || after[i].Bytes != u.Bytes-given.Bytes || after[i].Count != u.Count-given.Count || after[i].Reclaimable != 0 {
			t.Errorf("%s: there was %+v, %+v was given back, and there is %+v", u.Kind, u, given, after[i])
		}
	}
	w.check(t, n, s.ID, dayfly.Running, theNote)
	children, err := n.Fork(t.Context(), s.ID, 1) // of which the memory is only read now
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, n, children[0].ID, dayfly.Running, theNote)
	w.bring(t, n, s.ID, dayfly.Paused)
	w.check(t, n, s.ID, dayfly.Paused, theNote)
}

func TestUsageCountsEveryFileOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Paused)
	list, err := n.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counts, bytes := map[string]int{}, map[string]int64{}
	for _, u := range list {
		counts[u.Kind], bytes[u.Kind] = u.Count, u.Bytes
		if remade := u.Kind == "templates" || u.Kind == "seeds"; remade != (u.Reclaimable > 0) || remade && u.Reclaimable != u.Bytes {
			t.Errorf("%+v is not what can be made again", u)
		}
	}
	for _, kind := range []string{"templates", "workspaces", "snapshots", "seeds"} {
		if counts[kind] != 1 || bytes[kind] == 0 {
			t.Errorf("there are %d %s of %d bytes", counts[kind], kind, bytes[kind])
		}
	}
	if sum := w.blocks(t); bytes["workspaces"]+bytes["snapshots"] != sum {
		t.Errorf("workspaces and snapshots take %d bytes, not %d", bytes["workspaces"]+bytes["snapshots"], sum)
	}
	snap, err := n.GetSnapshot(t.Context(), string(s.Snapshot))
	if err != nil {
		t.Fatal(err)
	}
	before := w.blocks(t)
	if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
		t.Fatal(err)
	}
	key := before - w.blocks(t) - snap.FreeBytes
	if key < 0 || key > 4096 { // the wrap of its key, beside the generation
		t.Errorf("%d bytes were to be given back, and %d more were", snap.FreeBytes, key)
	}
	w.check(t, n, s.ID, dayfly.Paused, theNote)
}

// blocks is what workspaces and snapshots take on the disk, each file once.
func (w *world) blocks(t *testing.T) (bytes int64) {
	t.Helper()
	seen := map[uint64]bool{}
	for path, kind := range w.files(t) {
		path = filepath.Join(w.dir, path)
		if strings.HasPrefix(kind, "d") || strings.Contains(path, "/locks/") {
			continue
		}
		st, err := status(path)
		if err != nil {
			t.Fatal(err)
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			bytes += st.Blocks * 512
		}
	}
	return bytes
}

func TestDamagedTemplateIsRemovedAheadOfTime(t *testing.T) { //nolint:paralleltest // Prepare makes a template
	w := newWorld(t)
	n := w.node(t)
	memories, err := filepath.Glob(filepath.Join(w.dir, "templates", "*", "memory"))
	if err != nil || len(memories) != 1 {
		t.Fatalf("%q, %v", memories, err)
	}
	b, err := os.ReadFile(memories[0])
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := errors.Join(os.Remove(memories[0]), os.WriteFile(memories[0], b, 0o400)); err != nil { // other worlds have it as well
		t.Fatal(err)
	}
	if err := n.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(memories[0]); err == nil {
		t.Error("the damaged template is still there")
	}
	if count, _, err := n.templates.Usage(); err != nil || count != 1 { // the one of the usual size
		t.Errorf("there are %d templates, %v", count, err)
	}
}

func TestStandbyMachineBecomesAWorkspace(t *testing.T) { //nolint:paralleltest // a standby machine's parts are made by programs
	w := newWorld(t)
	c, err := w.config()
	if err != nil {
		t.Fatal(err)
	}
	c.Standby = Standby{Count: 1, MemoryMiB: spec.MemoryMiB}
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	waiting := func() int {
		n.standby.mu.Lock()
		defer n.standby.mu.Unlock()
		return len(n.standby.ready)
	}
	for waiting() == 0 {
		if t.Context().Err() != nil {
			t.Fatal("no standby machine was made")
		}
	}
	auto := another()
	auto.Accel = dayfly.Auto
	ws, err := n.Create(t.Context(), auto)
	if err != nil || ws.StartKind != dayfly.Claim {
		t.Fatalf("Create = %+v, %v", ws, err)
	}
	w.write(t, n, ws.ID, theNote)
	w.bring(t, n, ws.ID, dayfly.Paused)
	w.check(t, n, ws.ID, dayfly.Paused, theNote)
	if err := errors.Join(n.Delete(t.Context(), ws.ID), n.Close()); err != nil {
		t.Fatal(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
