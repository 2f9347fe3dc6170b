package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(importerDir); dir != "" {
		os.Exit(importer(dir))
	}
	goleak.VerifyTestMain(m)
}

// mountPoints are what every root file system has beside its layers.
var mountPoints = []string{"proc", "sys", "dev", "run", "tmp"}

func open(t testing.TB, l image.Limits) (*image.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	return openAt(t, dir, l), dir
}

func openAt(t testing.TB, dir string, l image.Limits) *image.Store {
	t.Helper()
	s, err := image.Open(dir, image.Options{Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plain makes an image of uncompressed layers.
func plain(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	var adds []mutate.Addendum
	for _, b := range layers {
		adds = append(adds, mutate.Addendum{Layer: static.NewLayer(b, types.OCIUncompressedLayer)})
	}
	return assemble(t, adds...)
}

// zipped makes an image of layers compressed with gzip.
func zipped(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	var adds []mutate.Addendum
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		adds = append(adds, mutate.Addendum{Layer: l})
	}
	return assemble(t, adds...)
}

func assemble(t testing.TB, adds ...mutate.Addendum) v1.Image {
	t.Helper()
	img, err := mutate.Append(empty.Image, adds...)
	if err != nil {
		t.Fatal(err)
	}
	return configure(t, img, func(c *v1.ConfigFile) {
		c.OS, c.Architecture = "linux", "amd64"
		c.Created = v1.Time{Time: time.Unix(1_700_000_000, 0)}
	})
}

func configure(t testing.TB, img v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	change(c)
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// hello is an image of one small file.
func hello(t testing.TB) v1.Image {
	t.Helper()
	return zipped(t, layertest.Tar(t, layertest.File("hello", "world")))
}

// saved is an archive as docker save writes it.
func saved(t testing.TB, tag string, img v1.Image) []byte {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(ref, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layoutDir is an OCI layout with images under their names.
func layoutDir(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for ref, img := range images {
		var o []layout.Option
		if ref != "" {
			o = append(o, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref}))
		}
		if err := at.AppendImage(img, o...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// packed is the tar archive of a directory.
func packed(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// load imports an archive as name.
func load(t testing.TB, s *image.Store, archive []byte, name string) dayfly.Image {
	t.Helper()
	images, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 {
		t.Fatalf("%d images, want 1", len(images))
	}
	return images[0]
}

// mounted mounts an image's root file system for the length of the test.
// The unmount is lazy: a process that another test starts at that moment has
// this test's descriptors until it has replaced itself.
func mounted(t testing.TB, s *image.Store, name string) string {
	t.Helper()
	needs.Loop(t)
	lease, err := s.Lease(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lease.Close() })
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "ext4", "-o", "loop,ro", lease.Path, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// holds checks the whole tree of an image.
func holds(t testing.TB, s *image.Store, name string, want ...string) {
	t.Helper()
	layertest.Check(t, layertest.Case{Want: want}, mounted(t, s, name), mountPoints...)
}

// tidy checks that nothing is left of work in a store.
func tidy(t testing.TB, dir string) {
	t.Helper()
	for _, sub := range []string{"tmp", "locks"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
}

// bare checks that a store holds no image and nothing of one.
func bare(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "version" {
			t.Errorf("left behind: %s", strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	tidy(t, dir)
}

// refused checks an error's kind and that it says certain things.
func refused(t testing.TB, err error, kind dayfly.Kind, says ...string) {
	t.Helper()
	var e *dayfly.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Errorf("error is %v (%s), want one that is %s", err, dayfly.KindOf(err), kind)
		return
	}
	for _, s := range says {
		if !strings.Contains(e.Msg, s) {
			t.Errorf("error says %q, want %q in it", e.Msg, s)
		}
	}
}
