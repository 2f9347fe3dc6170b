package vmmtest

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
)

const driveSize = 1 << 20

func poke(t *testing.T, path string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), at); err != nil {
		t.Fatal(err)
	}
}

func peek(t *testing.T, path string, at int64, n int) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func drivesComeInOrder(t *testing.T, s Setup) {
	c := s.config(t, driveSize, driveSize, driveSize, driveSize)
	c.Drives[1].ReadOnly = true
	for i, d := range c.Drives {
		poke(t, d.Path, 4096, string(rune('A'+i)))
	}
	k := meet(t, s.launch(t, c))
	for i := range c.Drives {
		if got, want := k.must("read %d 4096 1", i), hex.EncodeToString([]byte{byte('A' + i)}); got != want {
			t.Errorf("drive %d holds %s, want %s", i, got, want)
		}
	}
}

func readOnlyDriveIsNotWritten(t *testing.T, s Setup) {
	c := s.config(t, driveSize)
	c.Drives[0].ReadOnly = true
	poke(t, c.Drives[0].Path, 0, "before")
	// Two machines may read one file.
	s.launch(t, c)
	c.Dir = t.TempDir()
	k := meet(t, s.launch(t, c))
	if _, err := k.ask("write 0 0 %x", "after!"); err == nil {
		t.Error("the guest wrote to a read-only drive")
	}
	if got := peek(t, c.Drives[0].Path, 0, 6); got != "before" {
		t.Errorf("the file holds %q", got)
	}
}

func writesReachTheDrive(t *testing.T, s Setup) {
	c := s.config(t, driveSize)
	k := meet(t, s.launch(t, c))
	k.must("write 0 8192 %x", "marker")
	if got := peek(t, c.Drives[0].Path, 8192, 6); got != "marker" {
		t.Errorf("the file holds %q", got)
	}
	if got := k.must("read 0 8192 6"); got != hex.EncodeToString([]byte("marker")) {
		t.Errorf("the guest reads %s", got)
	}
}

func writableDriveIsNotShared(t *testing.T, s Setup) {
	c := s.config(t, driveSize)
	first := s.launch(t, c)
	for _, readOnly := range []bool{false, true} {
		other := c
		other.Dir = t.TempDir()
		other.Drives = []vmm.Drive{{Path: c.Drives[0].Path, ReadOnly: readOnly}}
		m, err := s.Driver.Launch(t.Context(), other)
		if err == nil {
			_ = m.Close()
		}
		wantKind(t, err, dayfly.Conflict)
		wantEmpty(t, other.Dir)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	s.launch(t, c) // the drive is free at once
}

// fullHostDiskIsTheGuestsError gives the guest a sparse drive on a file system
// that has less room than it says.
func fullHostDiskIsTheGuestsError(t *testing.T, s Setup) {
	needs.Mount(t)
	dir := t.TempDir()
	if err := unix.Mount("conformance", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := s.config(t)
	c.Drives = []vmm.Drive{{Path: sparse(t, dir, driveSize)}}
	m := s.launch(t, c)
	k := meet(t, m)
	block := bytes.Repeat([]byte("full"), 4096)
	full := false
	for at := 0; at+len(block) <= driveSize && !full; at += len(block) {
		_, err := k.ask("write 0 %d %x", at, block)
		full = err != nil
	}
	if !full {
		t.Error("the guest wrote more than there is room for")
	}
	if got := k.must("echo alive"); got != "alive" {
		t.Errorf("echo says %q", got)
	}
}
