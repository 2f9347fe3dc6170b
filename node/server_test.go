package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
)

var errNotAdmitted = dayfly.Errorf(dayfly.Exhausted, "the namespace is full")

// TestNothingIsThereBeforeItIsAdmitted: neither a file, nor a machine, nor a
// word of it; nor is there when it was refused.
func TestNothingIsThereBeforeItIsAdmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	var before []string
	told := 0
	n.Changed = func(dayfly.Workspace) { told++ } // no owner is at work
	look := func(t *testing.T, all ...dayfly.Workspace) error {
		t.Helper()
		for _, ws := range all {
			if ws.ID == "" || ws.State != dayfly.Creating || ws.Spec.CPUs == 0 {
				t.Errorf("asked about %+v", ws)
			}
		}
		if got := w.left(t); !slices.Equal(got, before) {
			t.Errorf("there is %q, where there was %q", got, before)
		}
		return errNotAdmitted
	}
	for name, do := range map[string]func(t *testing.T) error{
		"create": func(t *testing.T) error {
			_, err := n.CreateAdmitted(t.Context(), spec, func(ws dayfly.Workspace) error { return look(t, ws) })
			return err
		},
		"from a snapshot": func(t *testing.T) error {
			_, err := n.CreateAdmitted(t.Context(), dayfly.Spec{Snapshot: string(s.Snapshot)}, func(ws dayfly.Workspace) error {
				if ws.Spec.MemoryMiB != spec.MemoryMiB || ws.Parent != string(s.Snapshot) {
					t.Errorf("asked about %+v", ws)
				}
				return look(t, ws)
			})
			return err
		},
		"fork": func(t *testing.T) error {
			_, err := n.ForkAdmitted(t.Context(), s.ID, 3, func(all []dayfly.Workspace) error {
				if len(all) != 3 {
					t.Errorf("asked about %d", len(all))
				}
				return look(t, all...)
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before = w.left(t)
			if err := do(t); !errors.Is(err, errNotAdmitted) {
				t.Errorf("it is %v", err)
			}
			if got := w.left(t); !slices.Equal(got, before) || told != 0 {
				t.Errorf("there is %q, where there was %q; %d changes were told of", got, before, told)
			}
		})
	}
	n.Changed = nil
	var admitted []dayfly.Workspace
	copies, err := n.ForkAdmitted(t.Context(), s.ID, 2, func(all []dayfly.Workspace) error {
		admitted = all
		return nil
	})
	if err != nil || len(copies) != 2 || copies[0].ID != admitted[0].ID || copies[1].ID != admitted[1].ID {
		t.Errorf("admitted were %+v, and forked %+v, %v", admitted, copies, err)
	}
}

// TestRefusedStandbyMachineIsTheNextOnes.
func TestRefusedStandbyMachineIsTheNextOnes(t *testing.T) { //nolint:paralleltest // a standby machine's parts are made by programs
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
	defer n.Close()
	awaitSpare(t, n)
	auto := another()
	auto.Accel = dayfly.Auto
	var refused dayfly.ID
	_, err = n.CreateAdmitted(t.Context(), auto, func(ws dayfly.Workspace) error {
		refused = ws.ID
		return errNotAdmitted
	})
	if !errors.Is(err, errNotAdmitted) {
		t.Fatalf("Create = %v", err)
	}
	ws, err := n.Create(t.Context(), auto)
	if err != nil || ws.StartKind != dayfly.Claim || ws.ID != refused {
		t.Errorf("Create = %s by %s, %v; refused was %s", ws.ID, ws.StartKind, err, refused)
	}
}

func TestWorkspaceIsMadeUnderAGivenID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	id := dayfly.NewID()
	ws, err := n.CreateAs(t.Context(), id, spec)
	if err != nil || ws.ID != id || ws.State != dayfly.Running {
		t.Fatalf("CreateAs = %+v, %v", ws, err)
	}
	if _, err := n.CreateAs(t.Context(), id, spec); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("CreateAs, again = %v", err)
	}
	if _, err := n.CreateAs(t.Context(), "../w", spec); err == nil {
		t.Error("an id that is none was taken")
	}
}

// TestEveryChangeIsToldInOrder, also of what does not come to be.
func TestEveryChangeIsToldInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	told := map[dayfly.ID][]dayfly.State{}
	w.changed = func(ws dayfly.Workspace) {
		mu.Lock()
		defer mu.Unlock()
		told[ws.ID] = append(told[ws.ID], ws.State)
	}
	n := w.node(t)
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() error{
		func() error { _, err := n.Pause(t.Context(), ws.ID); return err },
		func() error { _, err := n.Resume(t.Context(), ws.ID); return err },
		func() error { _, err := n.Stop(t.Context(), ws.ID); return err },
		func() error { return n.Delete(t.Context(), ws.ID) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	w.breaks("image", 1)
	var failed dayfly.ID
	_, err = n.CreateAdmitted(t.Context(), spec, func(ws dayfly.Workspace) error { failed = ws.ID; return nil })
	if err == nil {
		t.Error("it started")
	}
	mu.Lock()
	defer mu.Unlock()
	want := []dayfly.State{
		dayfly.Creating, dayfly.Running, dayfly.Paused, dayfly.Creating, dayfly.Running, dayfly.Stopped, dayfly.Deleted,
	}
	if !slices.Equal(told[ws.ID], want) {
		t.Errorf("told were %q, want %q", told[ws.ID], want)
	}
	if want := []dayfly.State{dayfly.Creating, dayfly.Deleted}; !slices.Equal(told[failed], want) {
		t.Errorf("of one that failed told were %q, want %q", told[failed], want)
	}
}

// TestExpiredWorkspaceIsWhatItsSpecSays.
func TestExpiredWorkspaceIsWhatItsSpecSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	for action, want := range map[dayfly.Action]dayfly.State{dayfly.StopIt: dayfly.Stopped, dayfly.PauseIt: dayfly.Paused} {
		short := spec
		short.Timeout, short.OnTimeout = 1, action
		ws, err := n.Create(t.Context(), short)
		if err != nil {
			t.Fatal(err)
		}
		w.await(t, n, ws.ID, want)
		if err := n.Delete(t.Context(), ws.ID); err != nil {
			t.Error(err)
		}
	}
}

// TestUpdateChangesWhatItMay: names at any time, sizes while there is no
// machine, and disks only to be larger, and only alone.
func TestUpdateChangesWhatItMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	larger := ws.Spec
	larger.Name, larger.Keep = "renamed", true
	if ws, err = n.Update(t.Context(), ws.ID, larger); err != nil || ws.Name != "renamed" || !ws.Spec.Keep {
		t.Errorf("Update = %+v, %v", ws, err)
	}
	larger.CPUs, larger.MemoryMiB, larger.DiskMiB = 2, 2*spec.MemoryMiB, 2*spec.DiskMiB
	if _, err := n.Update(t.Context(), ws.ID, larger); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Update of a running one = %v", err)
	}
	w.bring(t, n, ws.ID, dayfly.Stopped)
	if ws, err = n.Update(t.Context(), ws.ID, larger); err != nil || ws.Spec.CPUs != 2 || ws.Spec.DiskMiB != larger.DiskMiB {
		t.Fatalf("Update = %+v, %v", ws, err)
	}
	fi, err := os.Stat(filepath.Join(workspaceDir(w.dir, ws.ID), diskFile))
	if err != nil || fi.Size() != int64(larger.DiskMiB)<<20 {
		t.Errorf("the disk has %d bytes, %v", fi.Size(), err)
	}
	if r, err := readRecord(w.dir, ws.ID); err != nil || r.Workspace.Spec.MemoryMiB != larger.MemoryMiB {
		t.Errorf("the record has %+v, %v", r, err)
	}
	for what, to := range map[string]dayfly.Spec{
		"a smaller disk": {DiskMiB: spec.DiskMiB},
		"too many cpus":  {CPUs: dayfly.MaxCPUs + 1},
		"a long name":    {Name: strings.Repeat("x", 1000)},
	} {
		if _, err := n.Update(t.Context(), ws.ID, to); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("Update to %s = %v", what, err)
		}
	}
	if _, err := n.Start(t.Context(), ws.ID); err != nil {
		t.Fatalf("Start = %v", err)
	}
	if _, err := n.Snapshot(t.Context(), ws.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.bring(t, n, ws.ID, dayfly.Stopped)
	larger.DiskMiB *= 2
	if !layersAreThere() { // a snapshot has a copy
		if _, err := n.Update(t.Context(), ws.ID, larger); err != nil {
			t.Errorf("Update = %v", err)
		}
		return
	}
	if _, err := n.Update(t.Context(), ws.ID, larger); dayfly.KindOf(err) != dayfly.Invalid || !strings.Contains(err.Error(), "layers") {
		t.Errorf("Update of a disk with layers = %v", err)
	}
}

// TestConsoleAndUseOutliveTheMachine, as far as there is something to say.
func TestConsoleAndUseOutliveTheMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	kept := spec
	kept.Keep = true
	ws, err := n.Create(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, n, ws.ID, theNote)
	for range 2 {
		if _, err := n.Console(t.Context(), ws.ID); err != nil {
			t.Errorf("Console = %v", err)
		}
		if u, err := n.HostUse(t.Context(), ws.ID); err != nil || u.Disk == 0 {
			t.Errorf("HostUse = %+v, %v", u, err)
		}
		w.bring(t, n, ws.ID, dayfly.Stopped)
	}
	if _, err := n.HostUse(t.Context(), dayfly.NewID()); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("HostUse of none = %v", err)
	}
	if _, err := n.Console(context.Background(), dayfly.NewID()); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("Console of none = %v", err)
	}
	var u Use
	u.ofProcess(os.Getpid())
	if u.CPU <= 0 || u.Memory <= 0 || u.Since.IsZero() {
		t.Errorf("this process takes %+v", u)
	}
}
