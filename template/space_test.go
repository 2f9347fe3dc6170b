package template_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/template"
	"github.com/dayfly/dayfly/test/needs"
)

// TestFullDiskLeavesNoTemplate makes a template on disks of growing size, so
// that the space runs out in one step after the other.
func TestFullDiskLeavesNoTemplate(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	needs.Mount(t)
	noisy := func(_ context.Context, memory *os.File) (p template.Parts, err error) {
		page := make([]byte, 4096)
		for off := int64(0); off < 16*4096; off += 4096 {
			for i := range page {
				page[i] = byte(rand.Uint32())
			}
			if _, err := memory.WriteAt(page, off); err != nil {
				return p, err
			}
		}
		return template.Parts{State: page, Disk: page}, nil
	}
	const step, most = 8 << 10, 1 << 20
	for size := step; ; size += step {
		if size > most {
			t.Fatal("does not fit into any disk")
		}
		dir := t.TempDir()
		if err := unix.Mount("full", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
		s := open(t, filepath.Join(dir, "templates"), template.Limits{})
		made, err := s.Make(t.Context(), imageKey("a"), noisy)
		if err == nil {
			if err := made.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		if dayfly.KindOf(err) != dayfly.Exhausted {
			t.Errorf("with %d bytes: %v", size, err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "templates", ".*")); err != nil || len(left) > 0 || s.Has(imageKey("a")) {
			t.Errorf("with %d bytes, %q is left (%v)", size, left, err)
		}
	}
}
