package image_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

// TestImagesBecomeTheTreesTheirLayersStandFor goes the whole way: an archive,
// the store, an ext4, the kernel that mounts it. It does so for both ways of
// filling the ext4.
func TestImagesBecomeTheTreesTheirLayersStandFor(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	needs.Loop(t)
	e2fsck := needs.E2fsprogs(t)
	for way, prepare := range map[string]func(*image.Store){
		"mke2fs": func(*image.Store) {}, "kernel": (*image.Store).FillMounted,
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			s, dir := open(t, image.Limits{})
			prepare(s)
			for i, c := range layertest.Cases() {
				t.Run(c.Name, func(t *testing.T) {
					var layers [][]byte
					for _, l := range c.Layers {
						layers = append(layers, layertest.Tar(t, l...))
					}
					img := load(t, s, saved(t, "case:1", plain(t, layers...)), "case-"+string(rune('a'+i/26))+string(rune('a'+i%26)))
					layertest.Check(t, c, mounted(t, s, img.Name), mountPoints...)
					file := filepath.Join(dir, "rootfs", strings.TrimPrefix(img.Digest, "sha256:")+".ext4")
					if out, err := exec.CommandContext(t.Context(), e2fsck, "-fn", file).CombinedOutput(); err != nil {
						t.Errorf("e2fsck: %v: %s", err, out)
					}
				})
			}
			tidy(t, dir)
		})
	}
}

// TestAWideDirectoryIsFilledByTheKernel knows that by the index, which mke2fs
// does not make: it would take time with the square of the entries.
func TestAWideDirectoryIsFilledByTheKernel(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	needs.Loop(t)
	const many, indexed = 5000, 0x1000 // EXT4_INDEX_FL
	var entries []layertest.Entry
	for i := range many {
		entries = append(entries, layertest.File(fmt.Sprintf("d/a-file-with-a-longer-name-%06d", i), ""))
	}
	s, _ := open(t, image.Limits{})
	load(t, s, saved(t, "many:1", plain(t, layertest.Tar(t, entries...))), "many")
	dir, err := os.Open(filepath.Join(mounted(t, s, "many"), "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	flags, err := unix.IoctlGetInt(int(dir.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&indexed == 0 {
		t.Errorf("flags are %#x (%v)", flags, err)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil || len(names) != many {
		t.Errorf("%d entries, want %d (%v)", len(names), many, err)
	}
}

func TestEveryFormOfArchiveIsRead(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	img := hello(t)
	docker := saved(t, "hello:1", img)
	oci := packed(t, layoutDir(t, map[string]v1.Image{"hello:1": img}))
	file := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(file, docker, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for form, r := range map[string]io.Reader{
		"docker save":                   bytes.NewReader(docker),
		"docker save, a file":           f,
		"docker save, gzip":             bytes.NewReader(gzipped(t, docker)),
		"docker save, zstd":             bytes.NewReader(zstandard(t, docker)),
		"docker save, byte by byte":     &trickle{bytes.NewReader(docker)},
		"docker save, layers not gzip":  bytes.NewReader(saved(t, "hello:1", plain(t, layertest.Tar(t, layertest.File("hello", "world"))))),
		"OCI archive":                   bytes.NewReader(oci),
		"OCI archive, gzip":             bytes.NewReader(gzipped(t, oci)),
		"OCI archive, zstd":             bytes.NewReader(zstandard(t, oci)),
		"OCI archive, layers with zstd": bytes.NewReader(packed(t, layoutDir(t, map[string]v1.Image{"hello:1": zstdImage(t)}))),
	} {
		t.Run(form, func(t *testing.T) {
			s, dir := open(t, image.Limits{})
			images, err := s.Import(t.Context(), r, image.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 1 || images[0].Name != "hello:1" || images[0].Platform != "linux/amd64" || images[0].Size == 0 {
				t.Errorf("images are %+v", images)
			}
			holds(t, s, "hello:1", `f 0644 0:0 hello "world"`)
			tidy(t, dir)
		})
	}
}

// trickle gives a byte at a time, as a slow pipe may.
type trickle struct{ r io.Reader }

func (t *trickle) Read(p []byte) (int, error) { return t.r.Read(p[:min(1, len(p))]) }

// zstdImage has layers that are compressed with zstd, one of them under a media
// type that says gzip.
func zstdImage(t testing.TB) v1.Image {
	t.Helper()
	var adds []mutate.Addendum
	for i, b := range [][]byte{
		layertest.Tar(t, layertest.File("hello", "?"), layertest.File("gone", "")),
		layertest.Tar(t, layertest.File("hello", "world"), layertest.Whiteout("gone")),
	} {
		adds = append(adds, mutate.Addendum{Layer: zstdLayer{
			static.NewLayer(zstandard(t, b), []types.MediaType{types.OCILayerZStd, types.DockerLayer}[i]), static.NewLayer(b, ""),
		}})
	}
	return assemble(t, adds...)
}

// zstdLayer is a static layer that knows what it is of.
type zstdLayer struct {
	v1.Layer
	of v1.Layer
}

func (z zstdLayer) DiffID() (v1.Hash, error) { return z.of.DiffID() }

func TestLayoutDirectoryIsRead(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	img := hello(t)
	images, err := s.ImportDir(t.Context(), layoutDir(t, map[string]v1.Image{"": img}), image.ImportOptions{Name: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if images[0].Digest != want.String() {
		t.Errorf("digest is %s, want the manifest's, %s", images[0].Digest, want)
	}
	holds(t, s, "hello", `f 0644 0:0 hello "world"`)
	tidy(t, dir)
	_, err = s.ImportDir(t.Context(), t.TempDir(), image.ImportOptions{Name: "x"})
	refused(t, err, dayfly.NotFound, "index.json")
}

func TestConfigOfAnImageIsKept(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, _ := open(t, image.Limits{})
	img := configure(t, hello(t), func(c *v1.ConfigFile) {
		c.Config = v1.Config{
			Env: []string{"A=1", "B=two words"}, Entrypoint: []string{"/bin/e", "x"}, Cmd: []string{"c"},
			User: "1000:5", WorkingDir: "/w", StopSignal: "SIGINT",
			ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}},
		}
	})
	load(t, s, saved(t, "c:1", img), "c")
	got, err := s.Lookup(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	want := dayfly.ImageConfig{
		Env: []string{"A=1", "B=two words"}, Entrypoint: []string{"/bin/e", "x"}, Cmd: []string{"c"},
		User: "1000:5", Workdir: "/w", StopSignal: "SIGINT", ExposedPorts: []string{"53/udp", "80/tcp"},
	}
	if d := cmp.Diff(want, got.Config); d != "" {
		t.Error(d)
	}
	if got.CreatedAt.Unix() != 1_700_000_000 {
		t.Errorf("created at %v", got.CreatedAt)
	}
}

func TestAnArchiveOfManyImagesGivesThemAll(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	other := plain(t, layertest.Tar(t, layertest.File("other", "1")))
	archive := packed(t, layoutDir(t, map[string]v1.Image{"one:1": hello(t), "two:2": other}))
	_, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{Name: "both"})
	refused(t, err, dayfly.Invalid, "2 images")
	images, err := s.Import(t.Context(), bytes.NewReader(archive), image.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range images {
		names = append(names, i.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"one:1", "two:2"}) {
		t.Errorf("names are %q", names)
	}
	holds(t, s, "two:2", `f 0644 0:0 other "1"`)
	tidy(t, dir)
}

// index is a layout of one name with an image for each platform.
func index(t testing.TB, platforms ...string) v1.ImageIndex {
	t.Helper()
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		plat, err := v1.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		img := configure(t, plain(t, layertest.Tar(t, layertest.File("platform", p))), func(c *v1.ConfigFile) {
			c.OS, c.Architecture, c.Variant = plat.OS, plat.Architecture, plat.Variant
		})
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: plat}})
	}
	return idx
}

func TestThePlatformIsChosenFromAnIndex(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.AppendIndex(index(t, "linux/arm64/v8", "unknown/unknown", "linux/amd64", "linux/amd64/v3", "windows/amd64")); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, image.Limits{})
	for want, platform := range map[string]string{
		"linux/amd64": "", "linux/arm64/v8": "linux/arm64", "linux/amd64/v3": "linux/amd64/v3", "windows/amd64": "windows/amd64",
	} {
		n := "i-" + strings.ReplaceAll(want, "/", "-")
		if _, err := s.ImportDir(t.Context(), dir, image.ImportOptions{Name: n, Platform: platform}); err != nil {
			t.Fatal(err)
		}
		holds(t, s, n, `f 0644 0:0 platform "`+want+`"`)
	}
	_, err = s.ImportDir(t.Context(), dir, image.ImportOptions{Name: "x", Platform: "linux/riscv64"})
	refused(t, err, dayfly.NotFound, "linux/riscv64", "linux/arm64/v8", "windows/amd64")
	_, err = s.ImportDir(t.Context(), dir, image.ImportOptions{Name: "x", Platform: "amd64"})
	refused(t, err, dayfly.Invalid, "os/arch")
}

func TestAnImageOfAnotherPlatformIsRefused(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, dir := open(t, image.Limits{})
	arm := configure(t, hello(t), func(c *v1.ConfigFile) { c.Architecture = "arm64" })
	_, err := s.Import(t.Context(), bytes.NewReader(saved(t, "a:1", arm)), image.ImportOptions{})
	refused(t, err, dayfly.Invalid, "linux/arm64", "linux/amd64")
	bare(t, dir)
}

func TestProgressReachesItsTotal(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s, _ := open(t, image.Limits{})
	last := map[string]dayfly.Progress{}
	big := plain(t, layertest.Tar(t, layertest.File("big", strings.Repeat("x", 3<<20))))
	_, err := s.Import(t.Context(), bytes.NewReader(saved(t, "p:1", big)), image.ImportOptions{Progress: func(p dayfly.Progress) {
		if p.Done < last[p.Step].Done {
			t.Errorf("%s goes back from %d to %d", p.Step, last[p.Step].Done, p.Done)
		}
		last[p.Step] = p
	}})
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for name, p := range last {
		if strings.HasPrefix(name, "unpack ") {
			steps++
			if p.Done != p.Total || p.Total < 3<<20 {
				t.Errorf("%s ends at %d of %d", name, p.Done, p.Total)
			}
		}
	}
	if steps != 1 {
		t.Errorf("steps are %v", last)
	}
}
