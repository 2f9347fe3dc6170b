package image_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

// TestAFullDiskLeavesNothing imports and pulls an image into disks of growing
// size, so that the space runs out in one step after the other.
func TestAFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	needs.Mount(t)
	noise := make([]byte, 2<<20)
	_, _ = rand.Read(noise)
	img := zipped(t, layertest.Tar(t, layertest.File("noise", string(noise)), layertest.File("a", "1")))
	archive := saved(t, "x:1", img)
	reg := serve(t)
	ref := reg.push(t, "noise:1", img)
	const kib = 1 << 10
	fits := 0
	for size := 512 * kib; fits < 2; size += 768 * kib {
		if size > 64<<20 {
			t.Fatal("does not fit into any disk")
		}
		disk := t.TempDir()
		if err := unix.Mount("full", disk, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(disk, 0); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
		fits = 0
		for _, get := range []func(*image.Store) error{
			func(s *image.Store) error {
				_, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{})
				return err
			},
			func(s *image.Store) error {
				_, err := s.Pull(t.Context(), ref, image.PullOptions{})
				return err
			},
		} {
			dir := filepath.Join(disk, "images")
			s := openAt(t, dir, image.Limits{})
			if err := get(s); err != nil {
				refused(t, err, dayfly.Exhausted, "no space left", "dayfly image rm")
				bare(t, dir)
				continue
			}
			fits++
			all, err := s.List(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatalf("list is %+v (%v)", all, err)
			}
			if _, err := s.Remove(t.Context(), all[0].Digest); err != nil {
				t.Fatal(err)
			}
			bare(t, dir)
		}
	}
}
