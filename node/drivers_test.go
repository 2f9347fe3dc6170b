package node

import (
	"context"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/vmm"
)

// named is a driver of another name, and with other faults.
type named struct {
	vmm.Driver
	name  string
	lacks vmm.Lacks
}

func (d named) Name() string     { return d.name }
func (d named) Lacks() vmm.Lacks { return d.lacks }

// rename gives the next node's driver a name.
func (w *world) rename(name string) vmm.Driver {
	d := w.reboot()
	w.driver = named{d, name, d.Lacks()}
	return w.driver
}

func TestNewMachineIsMadeWithWhatCanMakeIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	small := named{w.reboot(), "small", vmm.Lacks{Layers: true, Emulation: true}}
	large := named{w.reboot(), "large", vmm.Lacks{}}
	w.driver = small
	n := w.node(t)
	for _, c := range []struct {
		what              string
		list              []vmm.Driver
		fallback, layered bool
		want              dayfly.Accel
		name              string
		kind              dayfly.Kind
	}{
		{"emulation, by the other one", []vmm.Driver{small, large}, true, false, dayfly.TCG, "large", ""},
		{"emulation, and no other may", []vmm.Driver{small, large}, false, false, dayfly.TCG, "", dayfly.Invalid},
		{"a disk with layers", []vmm.Driver{small, large}, true, true, dayfly.TCG, "large", ""},
		{"a disk with layers, and no other may", []vmm.Driver{small, large}, false, true, dayfly.TCG, "", dayfly.Unavailable},
		{"a disk with layers, and no other", []vmm.Driver{small}, true, true, dayfly.TCG, "", dayfly.Unavailable},
		{"the preferred one can", []vmm.Driver{large, small}, true, true, dayfly.TCG, "large", ""},
		// No guest of these tests runs on KVM.
		{"whatever there is", []vmm.Driver{small, large}, true, false, dayfly.Auto, "large", ""},
		{"whatever there is, and no other may", []vmm.Driver{small, large}, false, false, dayfly.Auto, "", dayfly.Unavailable},
		{"kvm", []vmm.Driver{small, large}, true, false, dayfly.KVM, "", dayfly.Unavailable},
	} {
		of := &Node{Config: n.Config, kvm: &verdict{path: n.kvmFile, log: n.Log, prove: func(context.Context, vmm.Driver, kernel.Boot) error { return errBoom }}}
		of.Driver, of.Others, of.Fallback = c.list[0], c.list[1:], c.fallback
		got, err := of.choose(t.Context(), c.want, kernel.Boot{}, c.layered)
		if dayfly.KindOf(err) != c.kind && !(err == nil && c.kind == "") {
			t.Errorf("%s: %v; want %q", c.what, err, c.kind)
		}
		if err == nil && (got.driver.Name() != c.name || got.accel != dayfly.TCG) {
			t.Errorf("%s: %s on %s, want %s", c.what, got.driver.Name(), got.accel, c.name)
		}
	}
}

// TestWhatOneVMMMadeGoesOnWithIt: a paused workspace, a snapshot and a machine
// that runs, where another VMM is preferred by now.
func TestWhatOneVMMMadeGoesOnWithIt(t *testing.T) { //nolint:paralleltest // a template is made by programs
	w := newWorldIn(t, t.TempDir())
	w.outlive = true
	w.rename("first")
	n := w.open(t)
	made := make([]dayfly.Workspace, 2)
	for i := range made {
		var err error
		if made[i], err = n.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		w.write(t, n, made[i].ID, theNote)
	}
	runs, paused := made[0].ID, made[1].ID
	s, err := n.Snapshot(t.Context(), runs, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Pause(t.Context(), paused); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	w.rename("second")
	c, err := w.config()
	if err != nil {
		t.Fatal(err)
	}
	c.Others = []vmm.Driver{w.rename("first")}
	n, err = Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	w.check(t, n, runs, dayfly.Running, theNote)
	if _, err := n.Resume(t.Context(), paused); err != nil {
		t.Fatal(err)
	}
	w.check(t, n, paused, dayfly.Running, theNote)
	from := spec
	from.Image, from.Snapshot = "", string(s.ID)
	copied, err := n.Create(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	w.check(t, n, copied.ID, dayfly.Running, theNote)
	fresh, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[dayfly.ID]string{runs: "first", paused: "first", copied.ID: "first", fresh.ID: "second"} {
		r, err := readRecord(n.Dir, id)
		if err != nil || r.Machine == nil || r.Machine.VMM != want {
			t.Errorf("%s is a machine of %+v, %v; want %s", id, r.Machine, err, want)
		}
	}
	if err := n.DeleteSnapshot(t.Context(), string(s.ID)); err != nil {
		t.Error(err)
	}
	w.end(t, n, runs, paused, copied.ID, fresh.ID)
}

// TestWorkspaceAnswersAfterASnapshot: also where the channel had ended, it answers
// at once.
func TestWorkspaceAnswersAfterASnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	w.mu.Lock()
	m := w.latest[string(s.ID)]
	w.mu.Unlock()
	snap, err := n.Snapshot(t.Context(), s.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, n, s.ID, "later")
	w.check(t, n, s.ID, dayfly.Running, "later")
	d, err := m.Drive(t.Context(), writable)
	if err != nil || strings.HasSuffix(d.Path, diskFile) == layersAreThere() {
		t.Errorf("its disk is %+v, %v", d, err)
	}
	if err := n.DeleteSnapshot(t.Context(), string(snap.ID)); err != nil {
		t.Error(err)
	}
}
