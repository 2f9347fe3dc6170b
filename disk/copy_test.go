package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/disk"
)

// sparseFile has data at its begin, in its middle and at its end, and holes between.
func sparseFile(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, size / 2, size - 100} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("data"), 25), at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCopyHasTheSameContentAndHoles(t *testing.T) {
	t.Parallel()
	const size = 64<<20 + 123
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	sparseFile(t, from, size)
	if err := disk.Copy(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the copy is another: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(to, &st); err != nil || st.Blocks*512 > size/8 || st.Mode&0o777 != 0o600 {
		t.Errorf("the copy takes %d bytes, mode %o: %v", st.Blocks*512, st.Mode, err)
	}
	if err := os.WriteFile(to, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(from); err != nil || !bytes.Equal(a, b) {
		t.Errorf("a write to the copy has changed the other: %v", err)
	}
}

func TestCopyThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := disk.Copy(t.Context(), from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Copy of nothing = %v", err)
	}
	sparseFile(t, from, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := disk.Copy(ctx, from, to); err != nil { // nil: it was cloned, which takes no time
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something is left: %v", err)
		}
	} else if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Copy(t.Context(), from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Copy over a file = %v", err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "theirs" {
		t.Errorf("the file that was there holds %q: %v", b, err)
	}
}
