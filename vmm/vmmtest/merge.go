package vmmtest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
)

// The marks of layers are in blocks of their own, so that a VMM copies each by
// itself, and there is room for so many.
const (
	apart     = 128 << 10
	maxMarks  = 15
	towerSize = (maxMarks + 1) * apart
)

// tower is a machine whose drive has a layer for each mark.
type tower struct {
	t      *testing.T
	s      Setup
	config vmm.Config
	m      vmm.Machine
	k      *talk
	dir    string // of the layers
	marks  []string
}

// build writes into each layer what it alone has, and over what the lowest has
// in the first block. It returns nil where nothing is promised.
func build(t *testing.T, s Setup, layers int, dir string) *tower {
	t.Helper()
	if s.lacks().Layers {
		return nil
	}
	w := &tower{t: t, s: s, config: s.config(t, towerSize), dir: dir}
	w.config.Orphan = true
	w.m = s.launch(t, w.config)
	if _, ok := w.m.(vmm.Merger); !ok {
		return nil
	}
	w.k = meet(t, w.m)
	w.write("mark0")
	for i := 1; i < layers; i++ {
		w.push()
	}
	return w
}

func (w *tower) write(mark string) {
	w.t.Helper()
	w.k.must("write 0 0 %x", mark)
	w.k.must("write 0 %d %x", (len(w.marks)+1)*apart, mark)
	w.marks = append(w.marks, mark)
}

func (w *tower) push() {
	w.t.Helper()
	if err := w.m.PushLayer(w.t.Context(), 0, filepath.Join(w.dir, strconv.Itoa(len(w.marks)))); err != nil {
		w.t.Fatalf("PushLayer: %v", err)
	}
	w.write("mark" + strconv.Itoa(len(w.marks)))
}

func (w *tower) merge(ctx context.Context, speed int64) error {
	return w.m.(vmm.Merger).Merge(ctx, 0, speed) //nolint:forcetypeassert // build looked
}

func (w *tower) drive() vmm.Drive {
	w.t.Helper()
	d, err := w.m.Drive(w.t.Context(), 0)
	if err != nil {
		w.t.Fatalf("Drive: %v", err)
	}
	return d
}

// whole checks that a guest reads what was written into every layer.
func (w *tower) whole(k *talk) {
	w.t.Helper()
	read := func(at int, want string) {
		w.t.Helper()
		if got := k.must("read 0 %d 5", at); got != hex.EncodeToString([]byte(want)) {
			w.t.Errorf("the drive holds %s at %d, want %q", got, at, want)
		}
	}
	read(0, w.marks[len(w.marks)-1])
	for i, mark := range w.marks {
		read((i+1)*apart, mark)
	}
}

// reads checks that another machine finds the same on such a drive.
func (w *tower) reads(d vmm.Drive) {
	w.t.Helper()
	c := w.config
	c.Dir, c.Orphan, c.Drives = w.t.TempDir(), false, []vmm.Drive{d}
	m := w.s.launch(w.t, c)
	w.whole(meet(w.t, m))
	if err := m.Close(); err != nil {
		w.t.Error(err)
	}
}

// layerIsEmptyUntilTheGuestWrites: one that was pushed, while the machine stands still.
func layerIsEmptyUntilTheGuestWrites(t *testing.T, s Setup) {
	w := build(t, s, 2, t.TempDir())
	if w == nil || s.FullLayers {
		return
	}
	path := filepath.Join(w.dir, "pushed")
	if err := w.m.PushLayer(t.Context(), 0, path); err != nil {
		t.Fatal(err)
	}
	w.whole(w.k) // which reads
	for _, want := range []bool{true, false} {
		if err := w.m.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := vmm.LayerIsEmpty(path); got != want || err != nil {
			t.Errorf("LayerIsEmpty = %t, %v; want %t", got, err, want)
		}
		if err := w.m.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.k.must("write 0 %d 00", maxMarks*apart)
	}
}

// mergedDriveHoldsTheSame: with two layers, or any of those between, for the
// guest that runs and for one that comes when the VMM was killed.
func mergedDriveHoldsTheSame(t *testing.T, s Setup) {
	w := build(t, s, 5, t.TempDir())
	if w == nil {
		return
	}
	before := w.drive()
	held := map[string][]byte{}
	for _, path := range before.Below {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		held[path] = b
	}
	for range 2 { // there is nothing to do the second time
		if err := w.merge(t.Context(), 0); err != nil {
			t.Fatalf("Merge: %v", err)
		}
		hasDrive(t, w.m, 0, vmm.Drive{Path: before.Path, Below: before.Below[len(before.Below)-1:]})
	}
	merged := w.drive()
	w.whole(w.k)
	for path, was := range held {
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, was) {
			t.Errorf("a layer below was written to, %v", err)
		}
	}
	if err := s.crash(w.m); err != nil {
		t.Fatal(err)
	}
	ended(t, w.m)
	w.reads(merged)
	w.reads(before)
	w.reads(vmm.Drive{Path: before.Path, Below: append(before.Below[1:2:2], merged.Below...)})
}

// mergedDriveGoesOn: layers are pushed and merged, by one owner after another.
func mergedDriveGoesOn(t *testing.T, s Setup) {
	w := build(t, s, 2, t.TempDir())
	if w == nil {
		return
	}
	for round := range 2 {
		for range 2 {
			w.push()
			leave(t, w.m)
			w.m = s.adopt(t, w.config)
			w.k = rejoin(t, w.m)
		}
		before := w.drive()
		if want := 3; len(before.Below) != want {
			t.Errorf("round %d: %d layers below, want %d", round, len(before.Below), want)
		}
		if err := w.merge(t.Context(), 0); err != nil {
			t.Fatalf("Merge: %v", err)
		}
		leave(t, w.m)
		w.m = s.adopt(t, w.config)
		w.k = rejoin(t, w.m)
		hasDrive(t, w.m, 0, vmm.Drive{Path: before.Path, Below: before.Below[len(before.Below)-1:]})
		w.whole(w.k)
	}
	top := w.drive()
	if err := w.m.Close(); err != nil {
		t.Fatal(err)
	}
	// One that begins with layers has them merged as well, and those it gets later.
	c := w.config
	c.Dir = t.TempDir()
	over := vmm.Drive{Path: filepath.Join(t.TempDir(), "layer"), Below: append([]string{top.Path}, top.Below...)}
	if err := vmm.CreateLayer(over.Path, towerSize); err != nil {
		t.Fatal(err)
	}
	c.Drives = []vmm.Drive{over}
	w.config, w.m = c, s.launch(t, c)
	w.k = meet(t, w.m)
	if err := w.merge(t.Context(), 0); err != nil {
		t.Fatalf("Merge: %v", err)
	}
	w.push()
	w.push()
	leave(t, w.m)
	w.m = s.adopt(t, c)
	w.k = rejoin(t, w.m)
	if err := w.merge(t.Context(), 0); err != nil {
		t.Fatalf("Merge: %v", err)
	}
	hasDrive(t, w.m, 0, vmm.Drive{Path: filepath.Join(w.dir, strconv.Itoa(len(w.marks)-1)), Below: top.Below[len(top.Below)-1:]})
	w.whole(w.k)
}

// slow is a speed at which a merge does not come to its end.
const slow = 1

// underWay begins a merge, and returns when it is under way.
func (w *tower) underWay(ctx context.Context) <-chan error {
	w.t.Helper()
	over := make(chan error, 1)
	m := w.m
	go func() { over <- w.merge(ctx, slow) }()
	for {
		err := m.PushLayer(w.t.Context(), 0, filepath.Join(w.dir, strconv.Itoa(len(w.marks))))
		if err != nil {
			wantKind(w.t, err, dayfly.Conflict)
			return over
		}
		if len(w.marks) == maxMarks {
			w.t.Fatal("the merge does not begin")
		}
		w.write("more" + strconv.Itoa(len(w.marks)))
	}
}

// mergeThatIsCutShortChangesNothing: it is cancelled, or its machine gets another owner.
func mergeThatIsCutShortChangesNothing(t *testing.T, s Setup) {
	w := build(t, s, 4, t.TempDir())
	if w == nil {
		return
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	over := w.underWay(ctx)
	if err := w.m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := w.m.Save(t.Context())
	wantKind(t, err, dayfly.Conflict)
	wantKind(t, w.merge(t.Context(), 0), dayfly.Conflict)
	if err := w.m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := w.drive()
	cancel(errNoMerge)
	if err := <-over; !errors.Is(err, errNoMerge) {
		t.Errorf("Merge = %v, want %v", err, errNoMerge)
	}
	hasDrive(t, w.m, 0, before)
	w.whole(w.k)

	over = w.underWay(t.Context())
	before = w.drive()
	leave(t, w.m)
	if err := <-over; err == nil {
		t.Error("a merge came to its end that was left alone")
	}
	w.m = s.adopt(t, w.config)
	w.k = rejoin(t, w.m)
	hasDrive(t, w.m, 0, before)
	w.whole(w.k)
	if err := w.merge(t.Context(), 0); err != nil {
		t.Errorf("Merge: %v", err)
	}
	w.whole(w.k)

	w.push()
	over = w.underWay(t.Context())
	before = w.drive()
	if err := s.crash(w.m); err != nil {
		t.Fatal(err)
	}
	if err := <-over; err == nil {
		t.Error("a merge came to its end whose VMM died")
	}
	ended(t, w.m)
	w.reads(before)
}

var errNoMerge = errors.New("it is wanted no more")

// mergeOntoAFullDiskChangesNothing: the guest goes on, too.
func mergeOntoAFullDiskChangesNothing(t *testing.T, s Setup) {
	needs.Mount(t)
	dir := t.TempDir()
	if err := unix.Mount("conformance", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w := build(t, s, 4, t.TempDir())
	if w == nil {
		return
	}
	w.dir = dir
	w.push()
	fillUp(t, dir)
	before := w.drive()
	if err := w.merge(t.Context(), 0); !s.FullLayers {
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Merge = %v, want %v", err, unix.ENOSPC)
		}
		hasDrive(t, w.m, 0, before)
	}
	w.whole(w.k)
	if err := os.Remove(filepath.Join(dir, filling)); err != nil {
		t.Fatal(err)
	}
	if err := w.merge(t.Context(), 0); err != nil {
		t.Errorf("Merge, with room: %v", err)
	}
	w.whole(w.k)
}

const filling = "filling"

// fillUp leaves no room on a file system.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, filling))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
