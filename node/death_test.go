package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly"
)

// deathNote tells a child of this test's process where to die.
const deathNote = "DAYFLY_NODE_DEATH"

// death is a place to die in, and what is left of the dead.
type death struct {
	Dir, Use, Row string
	After         bool
}

// dying is the file in which the child says what it was about.
const dying = "dying.json"

// TestDyingProcess is no test but the process that dies: it has nothing to do
// where TestProcessThatDiesLosesNothing did not start it.
func TestDyingProcess(t *testing.T) {
	note := os.Getenv(deathNote)
	if note == "" {
		return
	}
	var d death
	if err := json.Unmarshal([]byte(note), &d); err != nil {
		t.Fatal(err)
	}
	w := emptyWorld(d.Dir)
	u := useNamed(d.Use)
	w.mergeAbove = u.mergeAbove
	n := w.open(t)
	s := w.subject(t, n, u.state)
	b, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(d.Dir, dying), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.once(point{table: u.table, row: d.Row, after: d.After}, func(context.Context, point) error {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	})
	t.Fatalf("%s ended without passing %s: %v", d.Use, d.Row, u.do(t.Context(), n, s))
}

// keyUses are verbs that work through no table. What is done once in each is the
// change of a key: there they die.
var keyUses = []use{
	{name: "keep a snapshot", table: "adopt key", state: dayfly.Running, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Snapshot(ctx, s.ID, "")
		return err
	}},
	{name: "delete a running one", table: "forget key", state: dayfly.Running, do: deleteIt},
	{name: "delete a paused one", table: "forget key", state: dayfly.Paused, do: deleteIt},
	{name: "delete a snapshot", table: "forget key", state: dayfly.Running, do: func(ctx context.Context, n *Node, s subject) error {
		return n.DeleteSnapshot(ctx, string(s.Snapshot))
	}},
	{name: "merge", table: "merge", state: dayfly.Running, mergeAbove: 2, do: func(ctx context.Context, n *Node, s subject) error {
		for range 4 * 2 { // one of which waits for the merge of those before to end
			if err := n.snap(ctx, s.ID); err != nil {
				return err
			}
		}
		return nil
	}},
}

// snap pushes a layer onto a disk.
func (n *Node) snap(ctx context.Context, id dayfly.ID) error {
	p, err := n.photograph(ctx, id)
	if err != nil {
		return err
	}
	return p.close()
}

func deleteIt(ctx context.Context, n *Node, s subject) error { return n.Delete(ctx, s.ID) }

func useNamed(name string) use {
	for _, u := range append(uses[:len(uses):len(uses)], keyUses...) {
		if u.name == name {
			return u
		}
	}
	panic("no use " + name)
}

// deaths are all places to die in: after every row, and ahead of the first.
func deaths() (all []death) {
	for _, u := range uses {
		rows := tables()[u.table]
		for i, row := range rows {
			if i == 0 {
				all = append(all, death{Use: u.name, Row: row})
			}
			if !testing.Short() || i == len(rows)-1 {
				all = append(all, death{Use: u.name, Row: row, After: true})
			}
		}
	}
	for _, u := range keyUses {
		if u.table == "merge" && !layersAreThere() {
			continue // a disk has no layers to merge
		}
		all = append(all, death{Use: u.name, Row: u.table}, death{Use: u.name, Row: u.table, After: true})
	}
	return all
}

// TestProcessThatDiesLosesNothing kills a process in every row of every use, and
// lets another open what it left. It is not parallel to other tests: a child
// between fork and exec holds all locks of this process.
func TestProcessThatDiesLosesNothing(t *testing.T) { //nolint:paralleltest // see above
	all := deaths()
	worlds := make([]*world, len(all))
	for i := range all {
		worlds[i] = newWorld(t)
		all[i].Dir = worlds[i].dir
	}
	died := make([]error, len(all))
	t.Run("die", func(t *testing.T) {
		for i, d := range all {
			t.Run(d.String(), func(t *testing.T) {
				t.Parallel()
				if died[i] = d.die(t.Context()); died[i] != nil {
					t.Error(died[i])
				}
			})
		}
	})
	t.Run("bury", func(t *testing.T) {
		for i, d := range all {
			t.Run(d.String(), func(t *testing.T) {
				t.Parallel()
				if died[i] == nil {
					d.bury(t, worlds[i])
				}
			})
		}
	})
}

func (d death) String() string {
	when := "before "
	if d.After {
		when = "after "
	}
	return d.Use + "/" + when + d.Row
}

// die runs the process that dies.
func (d death) die(ctx context.Context) error {
	note, err := json.Marshal(d)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDyingProcess$")
	cmd.Env = append(os.Environ(), deathNote+"="+string(note), "TMPDIR="+shared) // what the dead leave there, too
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			return nil
		}
	}
	return errors.Join(errors.New(string(out)), err)
}

// bury looks at what the dead left, once another process has opened it.
func (d death) bury(t *testing.T, w *world) {
	b, err := os.ReadFile(filepath.Join(w.dir, dying))
	if err != nil {
		t.Fatal(err)
	}
	var s subject
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	n := w.node(t)
	if strings.HasPrefix(d.Use, "delete ") {
		d.finish(t, w, n, s)
		return
	}
	list, err := n.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != s.ID {
		t.Fatalf("List = %+v, %v: only what was acknowledged should be left", list, err)
	}
	snaps, err := n.Snapshots(t.Context())
	if err != nil || len(snaps) != 1 || snaps[0].ID != s.Snapshot {
		t.Fatalf("Snapshots = %+v, %v", snaps, err)
	}
	for path := range w.files(t) {
		if base := filepath.Base(path); strings.HasPrefix(base, ".new-") || base == beforeDir {
			t.Errorf("left behind: %s", path)
		}
	}
	if homes, locks := w.count(t, "workspaces"), w.count(t, "locks"); homes != 1 || locks > 1 {
		t.Errorf("%d homes and %d locks for one workspace", homes, locks)
	}
	w.check(t, n, s.ID, d.outcome(w.outlive), theNote)
	w.write(t, n, s.ID, theNote) // which must be into files that are nobody else's
	if _, err := n.Rollback(t.Context(), s.ID, string(s.Snapshot)); err != nil {
		t.Errorf("Rollback = %v", err)
	}
	w.check(t, n, s.ID, dayfly.Running, snapshotNote)
	if err := errors.Join(n.Delete(t.Context(), s.ID), n.DeleteSnapshot(t.Context(), string(s.Snapshot))); err != nil {
		t.Error(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// finish lets a delete that was cut short be done.
func (d death) finish(t *testing.T, w *world, n *Node, s subject) {
	t.Helper()
	if d.Use == "delete a snapshot" {
		list, err := n.Snapshots(t.Context())
		if err != nil || d.After != (len(list) == 0) {
			t.Errorf("Snapshots = %+v, %v", list, err)
		}
		w.check(t, n, s.ID, d.outcome(w.outlive), theNote)
	} else if snap, err := n.GetSnapshot(t.Context(), string(s.Snapshot)); err != nil || snap.Workspace != s.ID {
		t.Errorf("GetSnapshot = %+v, %v: a snapshot outlives its workspace", snap, err)
	}
	for _, err := range []error{n.Delete(t.Context(), s.ID), n.DeleteSnapshot(t.Context(), string(s.Snapshot))} {
		orRefused(t, "Delete", err, dayfly.NotFound)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// outcome is what a kept workspace is after such a death.
func (d death) outcome(outlive bool) dayfly.State {
	u := useNamed(d.Use)
	switch {
	case u.table == "pause" && d.Row == pauseSteps[len(pauseSteps)-1].name && d.After:
		return dayfly.Paused // and it was going to be acknowledged
	case u.state == dayfly.Running && (!outlive || u.loses || strings.HasPrefix(u.name, "delete a running")):
		return dayfly.Failed
	}
	return u.state
}

// count is how many entries a directory has.
func (w *world) count(t *testing.T, sub string) int {
	t.Helper()
	ents, err := os.ReadDir(filepath.Join(w.dir, sub))
	if err != nil {
		t.Fatal(err)
	}
	return len(ents)
}
