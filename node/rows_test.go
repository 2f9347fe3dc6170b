package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// point is a place in a table's work: before or after a row.
type point struct {
	table, row string
	after      bool
	dir        string // of the workspace
}

// Every row of every table asks the hook of the world that its node is in, so
// that a test can fail it, cancel it, or die in it.
func init() { //nolint:gochecknoinits // before any test runs, as the tables are shared by all
	for table, rows := range map[string][]row{"startup": startup, "revival": revival} {
		for i, r := range rows {
			rows[i].do = func(s *start, ctx context.Context) error {
				at := point{table: table, row: r.name, dir: s.w.dir}
				return s.w.node.around(ctx, at, func() error { return r.do(s, ctx) })
			}
		}
	}
	for i, r := range pauseSteps {
		pauseSteps[i].do = func(p *pausing, ctx context.Context) error {
			return p.w.node.around(ctx, point{table: "pause", row: r.name, dir: p.w.dir}, func() error { return r.do(p, ctx) })
		}
	}
	for i, r := range handover {
		handover[i].do = func(t *takeover, ctx context.Context) error {
			return t.w.node.around(ctx, point{table: "handover", row: r.name, dir: t.w.dir}, func() error { return r.do(t, ctx) })
		}
	}
	for i, r := range poses {
		poses[i].do = func(s *sitting, ctx context.Context) error {
			return s.w.node.around(ctx, point{table: "photo", row: r.name, dir: s.w.dir}, func() error { return r.do(s, ctx) })
		}
	}
}

func (n *Node) around(ctx context.Context, at point, do func() error) error {
	if w, ok := n.Images.(*world); ok {
		return w.around(ctx, at, do)
	}
	return do()
}

// around asks the hook before and after.
func (w *world) around(ctx context.Context, at point, do func() error) error {
	hook := w.hook.Load()
	if hook == nil {
		return do()
	}
	if err := (*hook)(ctx, at); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	at.after = true
	if hook = w.hook.Load(); hook != nil {
		return (*hook)(ctx, at)
	}
	return nil
}

// once sets a hook that acts at the first passing of a point and is gone then.
func (w *world) once(at point, act func(context.Context, point) error) {
	var hook func(context.Context, point) error
	hook = func(ctx context.Context, p point) error {
		if p.table != at.table || p.row != at.row || p.after != at.after || !w.hook.CompareAndSwap(&hook, nil) {
			return nil
		}
		return act(ctx, p)
	}
	w.hook.Store(&hook)
}

// tables are the names of all rows.
func tables() map[string][]string {
	all := map[string][]string{}
	for _, r := range startup {
		all["startup"] = append(all["startup"], r.name)
	}
	for _, r := range revival {
		all["revival"] = append(all["revival"], r.name)
	}
	for _, r := range pauseSteps {
		all["pause"] = append(all["pause"], r.name)
	}
	for _, r := range poses {
		all["photo"] = append(all["photo"], r.name)
	}
	for _, r := range handover {
		all["handover"] = append(all["handover"], r.name)
	}
	return all
}

// use is a verb that works through a table.
type use struct {
	name, table string
	state       dayfly.State // that the workspace is in before
	do          func(context.Context, *Node, subject) error
	mergeAbove  int  // of the node that does it; 0: as usual
	loses       bool // what the workspace was is lost if it fails: it is Failed then
}

// subject is what a use is about: a workspace with a note, and a snapshot of it.
type subject struct {
	ID       dayfly.ID
	Snapshot dayfly.ID
}

const theNote, snapshotNote = "the note", "an older note"

var uses = []use{
	{name: "create", table: "startup", state: dayfly.Running, do: func(ctx context.Context, n *Node, _ subject) error {
		_, err := n.Create(ctx, another())
		return err
	}},
	{name: "start", table: "startup", state: dayfly.Stopped, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Start(ctx, s.ID)
		return err
	}},
	{name: "start again", table: "startup", state: dayfly.Failed, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Start(ctx, s.ID)
		return err
	}},
	{name: "resume", table: "revival", state: dayfly.Paused, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Resume(ctx, s.ID)
		return err
	}},
	{name: "fork", table: "revival", state: dayfly.Running, do: fork},
	{name: "from snapshot", table: "revival", state: dayfly.Paused, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Create(ctx, dayfly.Spec{Snapshot: string(s.Snapshot)})
		return err
	}},
	{name: "rollback", table: "revival", state: dayfly.Running, loses: true, do: rollback},
	{name: "rollback of a paused one", table: "revival", state: dayfly.Paused, do: rollback},
	{name: "pause", table: "pause", state: dayfly.Running, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Pause(ctx, s.ID)
		return err
	}},
	{name: "snapshot", table: "photo", state: dayfly.Running, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Snapshot(ctx, s.ID, "")
		return err
	}},
	{name: "photo for a fork", table: "photo", state: dayfly.Running, do: fork},
}

func fork(ctx context.Context, n *Node, s subject) error {
	_, err := n.Fork(ctx, s.ID, 2)
	return err
}

func rollback(ctx context.Context, n *Node, s subject) error {
	_, err := n.Rollback(ctx, s.ID, string(s.Snapshot))
	return err
}

// subject makes what a use needs. The workspace is kept, so that it outlives
// its process where it can.
func (w *world) subject(t *testing.T, n *Node, state dayfly.State) (s subject) {
	t.Helper()
	kept := spec
	kept.Keep = true
	ws, err := n.Create(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	s.ID = ws.ID
	w.write(t, n, s.ID, snapshotNote)
	snap, err := n.Snapshot(t.Context(), s.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	s.Snapshot = snap.ID
	w.write(t, n, s.ID, theNote)
	w.bring(t, n, s.ID, state)
	return s
}

// bring makes a running workspace one of another state.
func (w *world) bring(t *testing.T, n *Node, id dayfly.ID, state dayfly.State) {
	t.Helper()
	var err error
	switch state {
	case dayfly.Paused:
		_, err = n.Pause(t.Context(), id)
	case dayfly.Stopped:
		_, err = n.Stop(t.Context(), id)
	case dayfly.Failed:
		w.crash(t)
		w.await(t, n, id, dayfly.Failed)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// await returns when the workspace is in a state.
func (w *world) await(t *testing.T, n *Node, id dayfly.ID, state dayfly.State) dayfly.Workspace {
	t.Helper()
	for {
		ws, err := n.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if ws.State == state {
			return ws
		}
	}
}

// files lists all that the node keeps of workspaces and snapshots, but for the
// contents of disks. Records say the state.
func (w *world) files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, sub := range []string{"workspaces", "snapshots", "locks"} {
		err := filepath.WalkDir(filepath.Join(w.dir, sub), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(w.dir, path)
			if e.Name() == pausesDir {
				return nil // may be empty
			}
			all[rel] = e.Type().String()
			if e.Name() == recordFile {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				r, err := parseRecord(b)
				all[rel] = fmt.Sprintf("%s %s %q %d MiB", r.Workspace.State, r.Workspace.Reason, r.Workspace.Spec.Name, r.Workspace.Spec.DiskMiB)
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// same holds the files to what they were before.
func (w *world) same(t *testing.T, before map[string]string, u use) {
	t.Helper()
	after := w.files(t)
	if u.table == "photo" || u.name == "fork" || u.name == "keep a snapshot" { // what a running machine writes to already stays
		maps.DeleteFunc(after, func(path, _ string) bool {
			_, was := before[path]
			return !was && strings.HasPrefix(filepath.Base(path), diskFile+".")
		})
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("files before and after (-before +after):\n%s", diff)
	}
}

// check holds a workspace to being in a state with its note: its disk's, and
// unless that is lost, its memory's.
func (w *world) check(t *testing.T, n *Node, id dayfly.ID, state dayfly.State, note string) {
	t.Helper()
	ws, err := n.Get(t.Context(), id)
	if err != nil || ws.State != state {
		t.Fatalf("workspace is %s (%s), %v; it should be %s", ws.State, ws.Reason, err, state)
	}
	switch state {
	case dayfly.Running:
		got := w.read(t, n, id)
		if got.Note != note || got.Disk != note || got.Frozen {
			t.Errorf("running workspace has %+v, not %q", got, note)
		}
	case dayfly.Paused:
		if _, err := n.Resume(t.Context(), id); err != nil {
			t.Fatalf("Resume = %v", err)
		}
		w.check(t, n, id, dayfly.Running, note)
	case dayfly.Stopped, dayfly.Failed:
		if _, err := n.Start(t.Context(), id); err != nil {
			t.Fatalf("Start = %v", err)
		}
		if got := w.read(t, n, id); got.Disk != note {
			t.Errorf("started workspace has %+v, not %q", got, note)
		}
	}
}

// machinesOf is how many machines run for a workspace in a state.
func machinesOf(s dayfly.State) int {
	if s == dayfly.Running {
		return 1
	}
	return 0
}

// unharmed holds the world to what it was before a use that failed, and the use
// to work now.
func (w *world) unharmed(t *testing.T, n *Node, u use, s subject, before map[string]string) {
	t.Helper()
	w.hook.Store(nil)
	state, note := u.state, theNote
	if u.loses {
		if ws, _ := n.Get(t.Context(), s.ID); ws.State == dayfly.Failed {
			w.whole(t, n, s)
			return
		}
	}
	w.same(t, before, u)
	if got := w.running(); got != machinesOf(state) {
		t.Errorf("%d machines run, for a workspace that is %s", got, state)
	}
	if err := u.do(t.Context(), n, s); err != nil {
		t.Errorf("%s, once more = %v", u.name, err)
	}
	ws, _ := n.Get(t.Context(), s.ID)
	switch {
	case u.name == "rollback" || u.name == "rollback of a paused one":
		state, note = dayfly.Running, snapshotNote
	case ws.State == dayfly.Running && u.table == "startup" && u.name != "create":
		if err := n.Delete(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
		return
	case u.name == "resume":
		state = dayfly.Running
	case u.name == "pause":
		state = dayfly.Paused
	case u.name == "stop":
		state = dayfly.Stopped
	}
	w.check(t, n, s.ID, state, note)
}

// whole holds a workspace whose rollback failed to what is promised of it: that
// it may be rolled back again.
func (w *world) whole(t *testing.T, n *Node, s subject) {
	t.Helper()
	if got := w.running(); got != 0 {
		t.Errorf("%d machines run for a failed workspace", got)
	}
	if _, err := n.Rollback(t.Context(), s.ID, string(s.Snapshot)); err != nil {
		t.Fatalf("Rollback, once more = %v", err)
	}
	w.check(t, n, s.ID, dayfly.Running, snapshotNote)
}

// anyRow is for tests of every row.
func anyRow(use, string) bool { return true }

// eachRow runs a test for every row of every use that is meant.
func eachRow(t *testing.T, meant func(u use, row string) bool, test func(t *testing.T, u use, row string)) {
	for _, u := range uses {
		rows := tables()[u.table]
		for i, row := range rows {
			if testing.Short() && i%3 != len(rows)%3 || !meant(u, row) {
				continue
			}
			t.Run(u.name+"/"+row, func(t *testing.T) {
				t.Parallel()
				test(t, u, row)
			})
		}
	}
}

// stageOf is the stage that an error names.
func stageOf(err error) string {
	var e *dayfly.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Stage
}

func TestRowThatFailsIsTakenBack(t *testing.T) {
	t.Parallel()
	eachRow(t, anyRow, func(t *testing.T, u use, row string) {
		w := newWorld(t)
		n := w.node(t)
		s := w.subject(t, n, u.state)
		before := w.files(t)
		w.once(point{table: u.table, row: row, after: true}, func(context.Context, point) error { return errBoom })
		if err := u.do(t.Context(), n, s); stageOf(err) != row || !errors.Is(err, errBoom) {
			t.Fatalf("%s = %v of stage %q, want that of stage %q", u.name, err, stageOf(err), row)
		}
		w.unharmed(t, n, u, s, before)
	})
}

func TestRowThatIsCancelledIsTakenBack(t *testing.T) {
	t.Parallel()
	eachRow(t, anyRow, func(t *testing.T, u use, row string) {
		w := newWorld(t)
		n := w.node(t)
		s := w.subject(t, n, u.state)
		before := w.files(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.once(point{table: u.table, row: row}, func(context.Context, point) error { cancel(); return nil })
		err := u.do(ctx, n, s)
		rows := tables()[u.table]
		at := slices.Index(rows, row)
		switch got := slices.Index(rows, stageOf(err)); {
		case err == nil && u.table == "pause" && at == len(rows)-1: // it was over
			w.check(t, n, s.ID, dayfly.Paused, theNote)
			return
		case u.name == "fork" && errors.Is(err, context.Canceled): // another child may have been elsewhere
		case err == nil || got < at || got > at+1 || dayfly.KindOf(err) != dayfly.Unavailable:
			t.Errorf("%s = %v (%s) of stage %q, cancelled in %q", u.name, err, dayfly.KindOf(err), stageOf(err), row)
		}
		w.unharmed(t, n, u, s, before)
	})
}

// faults are what goes wrong in each row where it may, and how often in all. A
// row that is not here has nothing of ours that may go wrong.
var faults = map[string]map[string]string{
	"startup": {
		"home": "obstacle", "image": "image", "kernel": "kernel", "template": "version", "disk": "create key",
		"vmm": "launch", "boot": "boot", "init": wire.InitPath,
	},
	"revival": {
		"home": "obstacle", "image": "image", "kernel": "kernel", "saved": "version", "disk": "adopt key",
		"vmm": "launch", "boot": "boot", "renew": wire.RenewPath, "thaw": wire.ThawPath,
	},
	"pause": {
		"open": "load key", "freeze": wire.FreezePath, "pause": "pause", "state": "save", "memory": "ram",
		"disk": "layer in the way", "commit": "generation in the way", "record": "record in the way",
	},
	"photo": {
		"prepare": "load key", "freeze": wire.FreezePath, "pause": "pause", "state": "save", "layer": "push", "go on": "resume",
	},
}

// faultOf is what goes wrong in a row with the VMM that there is: where that has
// no layers, one that is there all the same is in the way.
func faultOf(table, row string) string {
	fault := faults[table][row]
	if !layersAreThere() && (fault == "push" || fault == "layer in the way") {
		return "a first layer"
	}
	return fault
}

// obstacles are what can be in the way below a workspace's directory.
var obstacles = map[string]string{
	"obstacle":              "",
	"layer in the way":      diskFile + ".2",
	"a first layer":         diskFile + ".1",
	"generation in the way": pausesDir + "/1",
	"record in the way":     "." + recordFile,
}

// mayFail tells whether faults has something for this row. What only a new
// workspace makes can fail for a new one alone.
func mayFail(u use, row string) bool {
	fault := faults[u.table][row]
	makes := u.name == "create" || u.name == "fork" || u.name == "from snapshot"
	madeOnce := fault == "obstacle" || strings.HasSuffix(fault, " key") && u.table != "pause" && u.table != "photo"
	return fault != "" && (makes || !madeOnce)
}

func TestPartThatFailsIsTakenBack(t *testing.T) {
	t.Parallel()
	eachRow(t, mayFail, func(t *testing.T, u use, row string) {
		fault := faultOf(u.table, row)
		times := 1
		if u.table == "startup" && (row == "vmm" || row == "boot") {
			times = 2 // the restore, and the boot instead
		}
		w := newWorld(t)
		n := w.node(t)
		s := w.subject(t, n, u.state)
		before := w.files(t)
		var placed string
		at := point{table: u.table, row: row}
		if fault == "boot" {
			at.row = "vmm" // a machine boots from its launch on, whoever waits for it
		}
		w.once(at, func(_ context.Context, p point) error {
			below, ok := obstacles[fault]
			if !ok {
				w.breaks(fault, times)
				return nil
			}
			placed = filepath.Join(p.dir, below)
			return os.MkdirAll(filepath.Join(placed, "x"), 0o700)
		})
		if err := u.do(t.Context(), n, s); stageOf(err) != row {
			t.Fatalf("%s = %v of stage %q, want that of stage %q", u.name, err, stageOf(err), row)
		}
		if placed != "" {
			lock := filepath.Join(w.dir, "locks", filepath.Base(placed)) // it stays with its home
			if err := errors.Join(os.RemoveAll(placed), os.RemoveAll(lock)); err != nil {
				t.Fatal(err)
			}
		}
		w.unharmed(t, n, u, s, before)
	})
}
