package vmmtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// saved is all there is of a machine.
type saved struct {
	state  []byte
	memory *os.File
}

// save pauses a machine and keeps what there is of it.
func save(t *testing.T, m vmm.Machine) saved {
	t.Helper()
	if err := m.Pause(t.Context()); err != nil {
		t.Fatalf("Pause: %v", err)
	}
	state, err := m.Save(t.Context())
	if err != nil {
		t.Fatalf("Save: %v", err)
	}
	ram, err := m.RAM(t.Context())
	if err != nil {
		t.Fatalf("RAM: %v", err)
	}
	list, err := ram.Touched(t.Context())
	if err != nil {
		t.Fatalf("Touched: %v", err)
	}
	f := memory(t, ram.Size())
	b, err := unix.Mmap(int(f.Fd()), 0, int(ram.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := ram.Copy(t.Context(), b, list); err != nil {
		t.Fatalf("Copy: %v", err)
	}
	if err := unix.Munmap(b); err != nil {
		t.Fatal(err)
	}
	return saved{state, f}
}

// memory makes a file of size bytes that is on no disk.
func memory(t *testing.T, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// restore launches a machine that goes on where the saved one was.
func (s Setup) restore(t *testing.T, c vmm.Config, from saved) vmm.Machine {
	t.Helper()
	c.Dir, c.State, c.Memory = t.TempDir(), from.state, vmm.Memory{File: from.memory}
	return s.launch(t, c)
}

// rejoin opens the channel of a machine whose guest may or may not have noticed
// that it is another connection.
func rejoin(t *testing.T, m vmm.Machine) *talk {
	t.Helper()
	k := dial(t, m)
	nonce := rand.Text()
	k.put("echo %s", nonce)
	for k.line() != "ok "+nonce {
	}
	return k
}

func overlay(t *testing.T, below ...string) vmm.Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer")
	if err := vmm.CreateLayer(path, driveSize); err != nil {
		t.Fatal(err)
	}
	return vmm.Drive{Path: path, Below: below}
}

// push makes what drive i holds stand still: in the layers that it returns, for
// copies to lie over. With raw drives alone that is a copy of the file.
func (s Setup) push(t *testing.T, m vmm.Machine, i int, to string) (below []string) {
	t.Helper()
	was, err := m.Drive(t.Context(), i)
	if err != nil {
		t.Fatalf("Drive: %v", err)
	}
	err = m.PushLayer(t.Context(), i, to)
	if !s.lacks().Layers {
		if err != nil {
			t.Fatalf("PushLayer: %v", err)
		}
		return append([]string{was.Path}, was.Below...)
	}
	wantKind(t, err, dayfly.Unavailable)
	return []string{duplicate(t, was.Path)}
}

// over is a drive for a copy of a machine.
func (s Setup) over(t *testing.T, below ...string) vmm.Drive {
	t.Helper()
	if s.lacks().Layers {
		return vmm.Drive{Path: duplicate(t, below[0])}
	}
	return overlay(t, below...)
}

func duplicate(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// afterSave is the conversation with a machine that was saved and goes on.
func (s Setup) afterSave(t *testing.T, m vmm.Machine, k *talk) *talk {
	t.Helper()
	if !s.lacks().LastingChannel {
		return k
	}
	_ = k.conn.Close()
	return rejoin(t, m)
}

// savedMachineGoesOnBesideItsCopies saves a machine that goes on, and then one
// of the copies. Each has its own memory and disk from then on.
func savedMachineGoesOnBesideItsCopies(t *testing.T, s Setup) {
	c := s.config(t, driveSize)
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("keep first")
	k.must("write 0 4096 %x", "first")
	from := save(t, m)
	below := s.push(t, m, 0, filepath.Join(t.TempDir(), "pushed"))
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	k = s.afterSave(t, m, k)
	k.must("keep later")
	k.must("write 0 4096 %x", "later")
	holds(t, k, "later")
	if got := peek(t, below[0], 4096, 5); got != "first" {
		t.Errorf("the layer below holds %q", got)
	}

	copied := c
	copied.Drives = []vmm.Drive{s.over(t, below...)}
	child := s.restore(t, copied, from)
	ck := rejoin(t, child)
	holds(t, ck, "first")
	ck.must("keep child")
	ck.must("write 0 4096 %x", "child")

	again := save(t, child)
	if err := child.Close(); err != nil {
		t.Fatal(err)
	}
	copied.Drives = []vmm.Drive{s.over(t, append([]string{copied.Drives[0].Path}, copied.Drives[0].Below...)...)}
	holds(t, rejoin(t, s.restore(t, copied, again)), "child")
	holds(t, k, "later")
}

// holds checks what the guest has in its memory and on its drive.
func holds(t *testing.T, k *talk, want string) {
	t.Helper()
	if got := k.must("kept"); got != want {
		t.Errorf("the guest's memory holds %q, want %q", got, want)
	}
	if got := k.must("read 0 4096 5"); got != hex.EncodeToString([]byte(want)) {
		t.Errorf("the guest's drive holds %s, want %q", got, want)
	}
}

// copiesShareTheirMemoryFile makes a machine whose RAM is a file, and two that
// begin as that.
func copiesShareTheirMemoryFile(t *testing.T, s Setup) {
	c := s.config(t)
	f := memory(t, int64(c.MemoryMiB)<<20)
	c.Memory = vmm.Memory{File: f, Shared: true}
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("keep origin")
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	state, err := m.Save(t.Context())
	if err != nil {
		t.Fatalf("Save: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} { // the file is as it was for the second
		k := rejoin(t, s.restore(t, c, saved{state, f}))
		if got := k.must("kept"); got != "origin" {
			t.Errorf("copy %s has %q", name, got)
		}
		k.must("keep %s", name)
	}
}

// memoryIsFilledBeforeTheMachineGoesOn fills the file during the launch.
func memoryIsFilledBeforeTheMachineGoesOn(t *testing.T, s Setup) {
	c := s.config(t)
	m := s.launch(t, c)
	meet(t, m).must("keep filled")
	from := save(t, m)
	c.Dir, c.State = t.TempDir(), from.state
	c.Memory = vmm.Memory{File: memory(t, int64(c.MemoryMiB)<<20)}

	c.Memory.Fill = func(context.Context) error { return errNoFill }
	failed, err := s.Driver.Launch(t.Context(), c)
	if err == nil {
		_ = failed.Close()
	}
	if !errors.Is(err, errNoFill) {
		t.Errorf("Launch = %v, want %v", err, errNoFill)
	}
	wantEmpty(t, c.Dir)

	c.Memory.Fill = func(context.Context) error {
		_, err := io.Copy(io.NewOffsetWriter(c.Memory.File, 0), io.NewSectionReader(from.memory, 0, int64(c.MemoryMiB)<<20))
		return err
	}
	if got := rejoin(t, s.launch(t, c)).must("kept"); got != "filled" {
		t.Errorf("the guest's memory holds %q", got)
	}
}

var errNoFill = errors.New("there is nothing to fill it with")

func setDriveShowsTheOtherFile(t *testing.T, s Setup) {
	c := s.config(t, 4*driveSize, 4*driveSize)
	c.Drives[0].ReadOnly = true
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("read 0 4096 5")
	for i := range c.Drives {
		other := sparse(t, t.TempDir(), driveSize) // smaller, which the guest does not know
		poke(t, other, 4096, "other")
		if err := m.SetDrive(t.Context(), i, vmm.Drive{Path: other}); err != nil {
			t.Fatalf("SetDrive %d: %v", i, err)
		}
		if got := k.must("read %d 4096 5", i); got != hex.EncodeToString([]byte("other")) {
			t.Errorf("drive %d holds %s", i, got)
		}
		_, err := k.ask("write %d 8192 %x", i, "mark")
		if readOnly := i == 0; readOnly != (err != nil) {
			t.Errorf("write to drive %d: %v", i, err)
		}
		if i == 1 && peek(t, other, 8192, 4) != "mark" {
			t.Error("the write did not reach the other file")
		}
	}
	if err := m.SetDrive(t.Context(), 7, vmm.Drive{Path: c.Drives[0].Path}); err == nil {
		t.Error("a drive that is not there was set")
	}
}

func saveIsRefusedWhileRunning(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	_, err := m.Save(t.Context())
	wantKind(t, err, dayfly.Conflict)
}

func spoiltStateIsRefused(t *testing.T, s Setup) {
	c := s.config(t)
	c.State = []byte("no state at all")
	m, err := s.Driver.Launch(t.Context(), c)
	if err == nil {
		_ = m.Close()
	}
	wantKind(t, err, dayfly.Invalid) // without the memory that belongs to it
	c.Memory.File = memory(t, int64(c.MemoryMiB)<<20)
	m, err = s.Driver.Launch(t.Context(), c)
	if err == nil {
		_ = m.Close()
	}
	wantKind(t, err, dayfly.Unavailable)
	wantEmpty(t, c.Dir)
}
