package layer_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly/image/layer"
)

// TestSparseFilesCostWhatTheyHold packs a file of 3 GiB with 8 bytes of data
// in every form that GNU tar knows.
func TestSparseFilesCostWhatTheyHold(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	const size = 3 << 30
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{1 << 20, 2 << 30} {
		if _, err := f.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, form := range [][]string{
		{"--format=gnu"},
		{"--format=posix", "--sparse-version=0.0"},
		{"--format=posix", "--sparse-version=0.1"},
		{"--format=posix", "--sparse-version=1.0"},
	} {
		b, err := exec.CommandContext(t.Context(), "tar", append(form, "-S", "-C", src, "-c", "sparse")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		dir, err := apply(t, layer.Limits{}, b)
		if err != nil {
			t.Fatalf("%v: %v", form, err)
		}
		checkSparse(t, filepath.Join(dir, "sparse"), size)
	}
}

func checkSparse(t *testing.T, file string, size int64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != size || got > 64<<10 {
		t.Errorf("%s: %d bytes, of which %d on disk", file, info.Size(), got)
	}
	for _, at := range []int64{1 << 20, 2 << 30} {
		var b [4]byte
		if _, err := f.ReadAt(b[:], at); err != nil || string(b[:]) != "data" {
			t.Errorf("%s: %q at %d (%v)", file, b, at, err)
		}
	}
}
