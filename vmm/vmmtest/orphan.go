package vmmtest

import (
	"bytes"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// adopt takes over a machine that the test's end closes.
func (s Setup) adopt(t *testing.T, c vmm.Config) vmm.Machine {
	t.Helper()
	m, err := s.Driver.Adopt(t.Context(), c)
	if err != nil {
		t.Fatalf("Adopt: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close of an adopted machine: %v", err)
		}
	})
	return m
}

// leave lets go of a machine, which is to be adopted by its own test.
func leave(t *testing.T, m vmm.Machine) {
	t.Helper()
	if err := m.Detach(); err != nil {
		t.Fatalf("Detach: %v", err)
	}
	if got := ended(t, m); got.Cause != vmm.Detached || got.Err != nil {
		t.Errorf("exit is %+v, want %s", got, vmm.Detached)
	}
}

// orphanGoesOnWithAnotherOwner lets every owner do something and die of it.
func orphanGoesOnWithAnotherOwner(t *testing.T, s Setup) {
	c := s.config(t, driveSize, driveSize)
	c.Drives[0].ReadOnly = true
	c.Orphan = true
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("keep mine")
	k.must("say of the first owner")
	leave(t, m)
	wantKind(t, m.Pause(t.Context()), dayfly.Conflict)
	if err := m.Close(); err != nil {
		t.Errorf("Close after Detach: %v", err)
	}

	second := s.adopt(t, c)
	if second.PID() != m.PID() {
		t.Errorf("process %d was adopted, not %d", second.PID(), m.PID())
	}
	k = rejoin(t, second)
	k.must("write 1 4096 %x", "lower")
	pushed := filepath.Join(t.TempDir(), "pushed")
	below := s.push(t, second, 1, pushed)
	k.must("write 1 4096 %x", "upper")
	if err := second.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	leave(t, second)

	third := s.adopt(t, c)
	hasDrive(t, third, 0, vmm.Drive{Path: c.Drives[0].Path, ReadOnly: true})
	top := vmm.Drive{Path: pushed, Below: below}
	if s.lacks().Layers {
		top = c.Drives[1]
	}
	hasDrive(t, third, 1, top)
	if got := peek(t, below[0], 4096, 5); got != "lower" {
		t.Errorf("the layer below holds %q", got)
	}
	from := save(t, third) // it is paused still
	if err := third.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	k = rejoin(t, third)
	k.must("say of the last one")
	if got := k.must("kept"); got != "mine" {
		t.Errorf("the guest's memory holds %q", got)
	}
	hears(t, third, "of the last one")
	s.push(t, third, 1, pushed+".2") // onto a layer of another owner's
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	if got := third.Exit().Cause; got != vmm.Closed {
		t.Errorf("exit is %s, want %s", got, vmm.Closed)
	}
	wantEmpty(t, c.Dir)
	_, err := s.Driver.Adopt(t.Context(), c)
	wantKind(t, err, dayfly.NotFound)

	copied := c
	copied.Orphan = false
	copied.Drives = []vmm.Drive{c.Drives[0], s.over(t, append([]string{top.Path}, top.Below...)...)}
	if got := rejoin(t, s.restore(t, copied, from)).must("kept"); got != "mine" {
		t.Errorf("a copy of an adopted machine has %q", got)
	}
}

// hears waits until a text is on a machine's console, which comes by another way
// than the guest's answers.
func hears(t *testing.T, m vmm.Machine, text string) {
	t.Helper()
	for until := time.Now().Add(deadline); !bytes.Contains(m.Console(), []byte(text)); {
		if time.Now().After(until) {
			t.Fatalf("the console holds %q, and not %q", m.Console(), text)
		}
	}
}

func hasDrive(t *testing.T, m vmm.Machine, i int, want vmm.Drive) {
	t.Helper()
	got, err := m.Drive(t.Context(), i)
	if err != nil {
		t.Fatalf("Drive: %v", err)
	}
	if got.Path != want.Path || got.ReadOnly != want.ReadOnly || !slices.Equal(got.Below, want.Below) {
		t.Errorf("drive %d is %+v, want %+v", i, got, want)
	}
}

// orphanWithManyLayersIsAdopted pushes as many layers as a disk may have.
func orphanWithManyLayersIsAdopted(t *testing.T, s Setup) {
	if s.lacks().Layers {
		return // there are none
	}
	c := s.config(t, driveSize)
	c.Orphan = true
	m := s.launch(t, c)
	meet(t, m)
	const layers = 64
	dir := t.TempDir()
	for i := 1; i < layers; i++ {
		if err := m.PushLayer(t.Context(), 0, filepath.Join(dir, strconv.Itoa(i))); err != nil {
			t.Fatalf("PushLayer %d: %v", i, err)
		}
	}
	want, err := m.Drive(t.Context(), 0)
	if err != nil || len(want.Below) != layers-1 {
		t.Fatalf("Drive = %+v, %v", want, err)
	}
	leave(t, m)
	m = s.adopt(t, c)
	hasDrive(t, m, 0, want)
	k := rejoin(t, m)
	k.must("write 0 4096 %x", "upper")
	if got := k.must("read 0 4096 5"); got != hex.EncodeToString([]byte("upper")) {
		t.Errorf("the drive holds %s", got)
	}
}

// orphanThatEndedAloneIsToldOf lets one guest end, and one VMM die, unwatched.
func orphanThatEndedAloneIsToldOf(t *testing.T, s Setup) {
	c := s.config(t)
	c.Orphan = true
	m := s.launch(t, c)
	const soon = 500 * time.Millisecond
	meet(t, m).put("doom %d", int64(soon))
	hears(t, m, script.Doomed)
	leave(t, m)
	time.Sleep(2 * soon) // a slow host's guest ends watched, as any other does
	again, err := s.Driver.Adopt(t.Context(), c)
	if err == nil {
		if got := ended(t, again); got.Cause != vmm.PowerOff {
			t.Errorf("exit is %+v, want %s", got, vmm.PowerOff)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	} else {
		wantKind(t, err, dayfly.NotFound) // nothing of it was kept
	}
	wantEmpty(t, c.Dir)

	m = s.launch(t, c)
	meet(t, m)
	leave(t, m)
	if err := s.crash(m); err != nil {
		t.Fatal(err)
	}
	if again, err = s.Driver.Adopt(t.Context(), c); err == nil { // it was still dying
		if got := ended(t, again); got.Cause != vmm.Crash {
			t.Errorf("exit is %+v, want %s", got, vmm.Crash)
		}
		_, err = s.Driver.Adopt(t.Context(), c)
	}
	wantKind(t, err, dayfly.NotFound)
}

func machineHasOneOwner(t *testing.T, s Setup) {
	c := s.config(t)
	c.Orphan = true
	m := s.launch(t, c)
	meet(t, m)
	_, err := s.Driver.Adopt(t.Context(), c)
	wantKind(t, err, dayfly.Conflict)
	leave(t, m)
	other := c
	other.ID = "another"
	_, err = s.Driver.Adopt(t.Context(), other)
	wantKind(t, err, dayfly.NotFound)

	var all sync.WaitGroup
	machines, errs := make([]vmm.Machine, 3), make([]error, 3)
	for i := range machines {
		all.Go(func() { machines[i], errs[i] = s.Driver.Adopt(t.Context(), c) })
	}
	all.Wait()
	owners := 0
	for i, err := range errs {
		if err == nil {
			owners++
			if err := machines[i].Close(); err != nil {
				t.Error(err)
			}
		} else {
			wantKind(t, err, dayfly.Conflict)
		}
	}
	if owners != 1 {
		t.Errorf("the machine has %d owners", owners)
	}
}

func onlyOrphansAreLetGo(t *testing.T, s Setup) {
	c := s.config(t)
	m := s.launch(t, c)
	wantKind(t, m.Detach(), dayfly.Invalid)
	meet(t, m)
	_, err := s.Driver.Adopt(t.Context(), c)
	if err == nil {
		t.Error("a machine that is no orphan was adopted")
	}
	c.Dir, c.Orphan = t.TempDir(), true
	m = s.launch(t, c)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, m.Detach(), dayfly.Conflict)
}

// orphanOfAKilledParentIsAdopted talks to a machine whose owner was killed.
func orphanOfAKilledParentIsAdopted(t *testing.T, s Setup) {
	c := s.config(t)
	c.Dir, c.Orphan = t.TempDir(), true
	w := launchInChild(t, c.Dir, orphanWord)
	m := s.adopt(t, c)
	if m.PID() != w.pid {
		t.Errorf("process %d was adopted, not %d", m.PID(), w.pid)
	}
	if got := rejoin(t, m).must("echo alive"); got != "alive" {
		t.Errorf("the guest says %q", got)
	}
	if err := m.Close(); err != nil || !w.gone(0) {
		t.Errorf("Close: %v; it must be gone", err)
	}
	wantEmpty(t, c.Dir)
}
