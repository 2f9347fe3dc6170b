package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

// stage puts a program in the place of mmdebstrap: these tests use no network.
func stage(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestBuildMakesAnImageOfPackages(t *testing.T) {
	needs.Root(t)
	tar := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(tar, layertest.Tar(t, layertest.File("etc/os-release", "debian")), 0o600); err != nil {
		t.Fatal(err)
	}
	args := filepath.Join(t.TempDir(), "args")
	stage(t, `printf '%s\n' "$@" >`+args+`
echo "I: installing" >&2
case $TMPDIR in */images/tmp/*) ;; *) exit 3 ;; esac
for last; do :; done
cp `+tar+` "$last"`)
	s, dir := open(t, image.Limits{})
	var steps []string
	img, err := s.Build(t.Context(), image.BaseRecipe(), image.BuildOptions{Progress: func(p dayfly.Progress) { steps = append(steps, p.Step) }})
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "base" || img.Platform != "linux/amd64" || img.Config.User != "user" || img.Config.Workdir != "/home/user" {
		t.Errorf("image is %+v", img)
	}
	if !slices.Contains(steps, "installing") {
		t.Errorf("steps are %q", steps)
	}
	given, err := os.ReadFile(args)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--variant=minbase", "trixie", "python-is-python3", "sudo"} {
		if !strings.Contains(string(given), want) {
			t.Errorf("mmdebstrap was given %q, want %s in it", given, want)
		}
	}
	holds(t, s, "base", `d 0755 0:0 etc`, `f 0644 0:0 etc/os-release "debian"`)
	tidy(t, dir)
}

func TestBuildThatFailsSaysWhy(t *testing.T) {
	needs.Root(t)
	stage(t, `echo "E: mirror not found" >&2; exit 1`)
	s, dir := open(t, image.Limits{})
	_, err := s.Build(t.Context(), image.BaseRecipe(), image.BuildOptions{})
	refused(t, err, dayfly.Unavailable, "mirror not found")
	bare(t, dir)

	stage(t, `echo "No space left on device" >&2; exit 1`)
	_, err = s.Build(t.Context(), image.BaseRecipe(), image.BuildOptions{})
	refused(t, err, dayfly.Exhausted, "no space left")

	ctx, cancel := context.WithCancel(t.Context())
	stage(t, `echo "I: waiting" >&2; exec sleep 1000`)
	_, err = s.Build(ctx, image.BaseRecipe(), image.BuildOptions{Progress: func(dayfly.Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
	bare(t, dir)

	t.Setenv("PATH", t.TempDir())
	_, err = s.Build(t.Context(), image.BaseRecipe(), image.BuildOptions{})
	refused(t, err, dayfly.Unavailable, "apt-get install mmdebstrap")
	bare(t, dir)
}

func TestRecipesAreChecked(t *testing.T) {
	t.Parallel()
	s, _ := open(t, image.Limits{})
	for _, change := range []func(*image.Recipe){
		func(r *image.Recipe) { r.Name = "" },
		func(r *image.Recipe) { r.Suite = "--simulate" },
		func(r *image.Recipe) { r.Packages = append(r.Packages, "a,b") },
		func(r *image.Recipe) { r.Exclude = []string{"/a b"} },
	} {
		r := image.BaseRecipe()
		change(&r)
		_, err := s.Build(t.Context(), r, image.BuildOptions{})
		refused(t, err, dayfly.Invalid)
	}
}
