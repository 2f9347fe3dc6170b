package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

func TestImagesAreFoundByNameReferenceAndDigest(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, _ := open(t, image.Limits{})
	load(t, s, saved(t, "x:1", hello(t)), "base")
	other := load(t, s, saved(t, "x:1", plain(t, layertest.Tar(t, layertest.File("a", "")))), "debian:13")
	for want, names := range map[string][]string{
		"base":      {"base"},
		"debian:13": {"debian:13", "docker.io/library/debian:13", "index.docker.io/library/debian:13", other.Digest, other.Digest[:20], other.Digest[7:17]},
	} {
		for _, n := range names {
			img, err := s.Lookup(t.Context(), n)
			if err != nil || img.Name != want {
				t.Errorf("%s leads to %q (%v), want %q", n, img.Name, err, want)
			}
		}
	}
	for _, n := range []string{"none", "debian", "docker.io/library/base", "sha256:", "sha256:00000000", "", "../base", "UPPER"} {
		_, err := s.Lookup(t.Context(), n)
		refused(t, err, dayfly.NotFound, "dayfly image pull")
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != "base" || all[1].Name != "debian:13" {
		t.Errorf("list is %+v (%v)", all, err)
	}
}

func TestANameMovesAndTheOldImageStaysWithoutOne(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	old := load(t, s, saved(t, "x:1", hello(t)), "base")
	moved := load(t, s, saved(t, "x:1", plain(t, layertest.Tar(t, layertest.File("a", "")))), "base")
	if img, err := s.Lookup(t.Context(), "base"); err != nil || img.Digest != moved.Digest {
		t.Errorf("base is %+v (%v)", img, err)
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2 || all[1].Name != "" || all[1].Digest != old.Digest {
		t.Errorf("list is %+v (%v)", all, err)
	}
	for _, n := range []string{old.Digest, "base"} {
		if freed, err := s.Remove(t.Context(), n); err != nil || freed == 0 {
			t.Errorf("remove %s: freed %d (%v)", n, freed, err)
		}
	}
	bare(t, dir)
}

func TestAnImageGoesWithItsLastName(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	archive := saved(t, "x:1", hello(t))
	load(t, s, archive, "one")
	load(t, s, archive, "two")
	if freed, err := s.Remove(t.Context(), "one"); err != nil || freed != 0 {
		t.Errorf("freed %d (%v)", freed, err)
	}
	if _, err := s.Lookup(t.Context(), "two"); err != nil {
		t.Error(err)
	}
	if freed, err := s.Remove(t.Context(), "two"); err != nil || freed == 0 {
		t.Errorf("freed %d (%v)", freed, err)
	}
	bare(t, dir)
	_, err := s.Remove(t.Context(), "two")
	refused(t, err, dayfly.NotFound)
}

func TestALeasedImageCannotBeRemoved(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	img := load(t, s, saved(t, "x:1", hello(t)), "base")
	var leases []*image.Lease
	for range 2 {
		l, err := openAt(t, dir, image.Limits{}).Lease(t.Context(), "base")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		leases = append(leases, l)
	}
	info, err := os.Stat(leases[0].Path)
	if err != nil || info.Mode() != 0o400 || leases[0].Image.Digest != img.Digest {
		t.Errorf("lease is %+v, its file %v (%v)", leases[0], info.Mode(), err)
	}
	for _, l := range leases {
		for _, n := range []string{"base", img.Digest} {
			_, err = s.Remove(t.Context(), n)
			refused(t, err, dayfly.Conflict, "in use")
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Remove(t.Context(), "base"); err != nil {
		t.Error(err)
	}
	_, err = s.Lease(t.Context(), "base")
	refused(t, err, dayfly.NotFound)
	bare(t, dir)
}

// TestAnImageIsBuiltOnce pulls one image from several goroutines and stores at
// the same time.
func TestAnImageIsBuiltOnce(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := serve(t)
	ref := reg.push(t, "app:1", hello(t))
	s, dir := open(t, image.Limits{})
	stores := []*image.Store{s, openAt(t, dir, image.Limits{}), s, openAt(t, dir, image.Limits{})}
	var mu sync.Mutex
	built := 0
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			_, err := s.Pull(t.Context(), ref, image.PullOptions{Progress: func(p dayfly.Progress) {
				mu.Lock()
				defer mu.Unlock()
				if p.Step == "root file system" {
					built++
				}
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if built != 1 {
		t.Errorf("built %d times", built)
	}
	holds(t, s, ref, `f 0644 0:0 hello "world"`)
	tidy(t, dir)
}

// TestNamesComeAndGoAtTheSameTime lets removals and imports of one image race.
func TestNamesComeAndGoAtTheSameTime(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	archive := saved(t, "x:1", hello(t))
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			n := fmt.Sprintf("name-%d", i)
			for range 4 {
				if _, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{Name: n}); err != nil {
					t.Error(err)
				}
				if l, err := s.Lease(t.Context(), n); err != nil {
					t.Error(err)
				} else if _, err := os.Stat(l.Path); err != nil {
					t.Error(err)
				} else {
					l.Close()
				}
				_, err := s.Remove(t.Context(), n)
				if err != nil && dayfly.KindOf(err) != dayfly.Conflict {
					t.Error(err)
				}
				if err := s.Sweep(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		_, err := s.Remove(t.Context(), fmt.Sprintf("name-%d", i))
		if err != nil && dayfly.KindOf(err) != dayfly.NotFound {
			t.Error(err)
		}
	}
	bare(t, dir)
}

func TestDamageInTheStoreIsSeen(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	for _, sub := range []string{"manifests", "configs", "names"} {
		s, dir := open(t, image.Limits{})
		img := load(t, s, saved(t, "x:1", hello(t)), "base")
		files, err := filepath.Glob(filepath.Join(dir, sub, "*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := os.WriteFile(files[0], []byte(`{"some":"thing"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = s.Lookup(t.Context(), "base")
		refused(t, err, dayfly.Internal, "damaged")
		if sub == "names" {
			continue
		}
		if _, err := s.Remove(t.Context(), img.Digest); err != nil {
			t.Error(err)
		}
		bare(t, dir)
	}
}

func TestAStoreOfALaterFormatIsLeftAlone(t *testing.T) {
	t.Parallel()
	_, dir := open(t, image.Limits{})
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := image.Open(dir, image.Options{})
	refused(t, err, dayfly.Conflict, "format")
}

// importerDir makes this test binary a process that imports what it reads.
const importerDir = "DAYFLY_TEST_IMPORT_DIR"

func importer(dir string) int {
	s, err := image.Open(dir, image.Options{})
	if err == nil {
		_, err = s.Import(context.Background(), os.Stdin, image.ImportOptions{Progress: func(p dayfly.Progress) {
			fmt.Println(p.Step)
		}})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestSweepTakesWhatAKilledProcessLeft stops an import in the middle, looks
// that a sweep spares it while it lives, kills it, and sweeps again.
func TestSweepTakesWhatAKilledProcessLeft(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), importerDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	archive := saved(t, "x:1", plain(t, layertest.Tar(t, layertest.File("a", strings.Repeat("x", 1<<20)))))
	if _, err := stdin.Write(archive[:len(archive)/2]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("read archive"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "tmp/*/archive")); err != nil || len(left) != 1 {
		t.Errorf("a sweep took what a living process works on: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	// What a kill between the last steps of a build leaves.
	hex := strings.Repeat("ab", 32)
	for _, f := range []string{"manifests/" + hex + ".json", "configs/" + hex + ".json", "locks/" + hex} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	bare(t, dir)
}

// TestAKillAtAnyStepLeavesAStoreThatWorks kills an import at each of its
// reports and repeats it.
func TestAKillAtAnyStepLeavesAStoreThatWorks(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	archive := saved(t, "x:1", plain(t, layertest.Tar(t, layertest.File("a", "1"))))
	for _, step := range []string{"read archive", "unpack ", "root file system"} {
		s, dir := open(t, image.Limits{})
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), importerDir+"="+dir)
		cmd.Stdin = bytes.NewReader(archive)
		cmd.Stdout = &killAt{step, cmd}
		_ = cmd.Run()
		if err := s.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		load(t, s, archive, "again")
		holds(t, s, "again", `f 0644 0:0 a "1"`)
		tidy(t, dir)
	}
}

// killAt kills a process when it says a word.
type killAt struct {
	word string
	cmd  *exec.Cmd
}

func (k *killAt) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(k.word)) {
		_ = k.cmd.Process.Kill()
	}
	return len(p), nil
}

func TestSweepKeepsWhatIsWhole(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, _ := open(t, image.Limits{})
	load(t, s, saved(t, "x:1", hello(t)), "base")
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "base", `f 0644 0:0 hello "world"`)
}
