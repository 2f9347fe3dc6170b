package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/snapshot"
)

// flip changes one byte of a file, in the middle, or where a disk has its note.
func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := fi.Size() / 2
	if strings.HasPrefix(filepath.Base(path), "disk.") {
		at = noteAt
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// generationFiles are the files of a second pause's generation, which it takes
// one to know.
func generationFiles() []string {
	files := []string{"manifest.json", "ram", "state", "disk.0"}
	if layersAreThere() {
		files = append(files, "disk.1", "disk.2")
	}
	return files
}

func TestDamagedPauseIsRefusedAndTheOneBeforeStillResumes(t *testing.T) {
	t.Parallel()
	for _, name := range generationFiles() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			s := w.subject(t, n, dayfly.Paused) // with two layers, if there are any
			w.check(t, n, s.ID, dayfly.Paused, theNote)
			w.write(t, n, s.ID, "after the first pause")
			w.bring(t, n, s.ID, dayfly.Paused) // with three
			last := filepath.Join(workspaceDir(w.dir, s.ID), pausesDir, "2")
			if ents, err := os.ReadDir(last); err != nil || len(ents) != len(generationFiles()) {
				t.Fatalf("the generation has %d files, %v; this test knows %d", len(ents), err, len(generationFiles()))
			}
			flip(t, filepath.Join(last, name))
			_, err := n.Resume(t.Context(), s.ID)
			if !errors.Is(err, snapshot.ErrDamaged) || !strings.Contains(err.Error(), strings.TrimSuffix(name, ".json")+" is damaged") {
				t.Errorf("Resume = %v, want one that names %s", err, name)
			}
			if ws, err := n.Get(t.Context(), s.ID); err != nil || ws.State != dayfly.Paused || w.running() > 0 {
				t.Errorf("after it the workspace is %s, %v, and %d machines run", ws.State, err, w.running())
			}
			_, err = n.Rollback(t.Context(), s.ID, dayfly.PreviousPause)
			shared := layersAreThere() && (name == "disk.0" || name == "disk.1") // both pauses have it
			if shared != errors.Is(err, snapshot.ErrDamaged) || !shared && err != nil {
				t.Errorf("Rollback to the pause before = %v", err)
			}
			if !shared {
				w.check(t, n, s.ID, dayfly.Running, theNote)
			}
			if err := errors.Join(n.Delete(t.Context(), s.ID), n.DeleteSnapshot(t.Context(), string(s.Snapshot))); err != nil {
				t.Error(err)
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestDamagedSnapshotIsRefusedAndNeverCostsARunningWorkspace(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"manifest.json", "ram", "state"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			s := w.subject(t, n, dayfly.Running)
			flip(t, filepath.Join(n.snapshotDir(s.Snapshot), generationDir, name))
			if _, err := n.Create(t.Context(), dayfly.Spec{Snapshot: string(s.Snapshot)}); !errors.Is(err, snapshot.ErrDamaged) {
				t.Errorf("Create = %v", err)
			}
			if err := rollback(t.Context(), n, s); !errors.Is(err, snapshot.ErrDamaged) {
				t.Errorf("Rollback = %v", err)
			}
			w.check(t, n, s.ID, dayfly.Running, theNote)
			if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
				t.Error(err)
			}
		})
	}
}

// foreign are the ways in which a host can be another one, and what an error
// about it says.
var foreign = map[string]struct {
	says string
	make func(*world, *workspace)
}{
	"VMM version": {"the VMM's version", func(w *world, _ *workspace) {
		other := "2"
		w.version.Store(&other)
	}},
	"CPU model": {"the processor", func(_ *world, ws *workspace) { ws.parts.made.CPUModel = "another" }},
	"VMM":       {"the VMM was", func(_ *world, ws *workspace) { ws.parts.made.VMM = "another" }},
}

func TestMemoryOfAnotherHostIsRefusedAndItsDiskIsNot(t *testing.T) {
	t.Parallel()
	for name, f := range foreign {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			kept := another()
			kept.Keep, kept.Cold = true, true // no template: those of another version would have to be made
			ws, err := n.Create(t.Context(), kept)
			if err != nil {
				t.Fatal(err)
			}
			w.write(t, n, ws.ID, theNote)
			n.mu.Lock()
			own := n.own[ws.ID]
			n.mu.Unlock()
			if name != "VMM version" {
				f.make(w, own) // its owner waits for a request, and sees it with that
			}
			snap, err := n.Snapshot(t.Context(), ws.ID, "named")
			if err != nil {
				t.Fatal(err)
			}
			if name == "VMM version" {
				f.make(w, own)
			}
			says := func(what string, err error) {
				if dayfly.KindOf(err) != dayfly.Unavailable || stageOf(err) != "saved" || !strings.Contains(err.Error(), f.says) || !strings.Contains(err.Error(), "cold") {
					t.Errorf("%s = %v of stage %q, want what is different and a remedy", what, err, stageOf(err))
				}
			}
			says("Rollback", rollback(t.Context(), n, subject{ws.ID, snap.ID}))
			w.check(t, n, ws.ID, dayfly.Running, theNote) // which a refused rollback has not cost
			w.bring(t, n, ws.ID, dayfly.Paused)
			_, err = n.Resume(t.Context(), ws.ID)
			says("Resume", err)
			_, err = n.Create(t.Context(), dayfly.Spec{Snapshot: "named"})
			says("Create", err)

			w.bring(t, n, ws.ID, dayfly.Stopped)
			w.check(t, n, ws.ID, dayfly.Stopped, theNote)
			cold, err := n.Create(t.Context(), dayfly.Spec{Snapshot: "named", Cold: true})
			if err != nil || cold.StartKind != dayfly.Cold {
				t.Fatalf("Create, cold = %+v, %v", cold, err)
			}
			if got := w.read(t, n, cold.ID); got.Disk != theNote || got.Note != "" {
				t.Errorf("it has %+v", got)
			}
		})
	}
}

func TestFailedResumeOfAForeignPauseCanBeRepeatedAtHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Paused)
	other := "2"
	w.version.Store(&other)
	if _, err := n.Resume(context.WithoutCancel(t.Context()), s.ID); stageOf(err) != "saved" {
		t.Fatalf("Resume = %v", err)
	}
	w.version.Store(nil)
	w.check(t, n, s.ID, dayfly.Paused, theNote)
}
