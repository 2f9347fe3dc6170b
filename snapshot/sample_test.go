package snapshot

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sample is what testdata/v1 holds.
func sample() content {
	c := content{memory: make([]byte, 24*PageSize), state: []byte("devices of version 1"), meta: meta("sample-1")}
	for i := range c.memory {
		if p := i / PageSize; p < 3 || p == 8 || p >= 20 {
			c.memory[i] = byte(i*7 + p)
		}
	}
	c.extents = []Extent{{0, 10 * PageSize}, {16 * PageSize, 8 * PageSize}}
	return c
}

// TestVersion1LoadsForEver holds the format of docs/formats/snapshot.md: these
// files were written by the first release that had it.
func TestVersion1LoadsForEver(t *testing.T) {
	t.Parallel()
	dir, c := filepath.Join("testdata", "v1"), sample()
	c.disks = []string{filepath.Join(dir, "disk.0")} // ciphertext to this package: any bytes will do
	mustHold(t, dir, c)
	g, err := Open(dir, testKey(0))
	check(t, err)
	defer g.Close()
	got := g.Manifest()
	if len(got.Disks) != 1 || got.Disks[0].Name != "disk.0" || got.Disks[0].Format != Qcow2 || got.Disks[0].Size != 3*PageSize+100 {
		t.Fatalf("layers of the sample: %+v", got.Disks)
	}
	want := Manifest{Meta: c.meta, RAM: RAMInfo{24 * PageSize, 8 * PageSize, 1}, State: 20, Disks: got.Disks}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if !got.CreatedAt.Equal(time.Date(2026, 11, 1, 12, 0, 0, 5, time.UTC)) {
		t.Fatalf("made at %v", got.CreatedAt)
	}
	if disk, err := os.ReadFile(g.DiskPath(0)); err != nil || disk[len(disk)-1] != 1 {
		t.Fatalf("the sample's disk: %v", err)
	}
}
