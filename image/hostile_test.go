package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

// members makes an archive of files.
func members(t testing.TB, files ...string) []byte {
	t.Helper()
	var entries []layertest.Entry
	for i := 0; i < len(files); i += 2 {
		entries = append(entries, layertest.File(files[i], files[i+1]))
	}
	return layertest.Tar(t, entries...)
}

func TestMalformedArchivesAreRefused(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	whole := saved(t, "hello:1", hello(t))
	oci := packed(t, layoutDir(t, map[string]v1.Image{"hello:1": hello(t)}))
	typed := func(mt types.MediaType) []byte {
		img := assemble(t, mutate.Addendum{Layer: static.NewLayer([]byte("secret"), mt)})
		return packed(t, layoutDir(t, map[string]v1.Image{"x:1": img}))
	}
	for what, c := range map[string]struct {
		archive []byte
		says    string
	}{
		"nothing":                  {nil, "manifest.json"},
		"noise":                    {bytes.Repeat([]byte("noise"), 1000), "not a tar archive"},
		"half":                     {whole[:len(whole)/2], "truncated"},
		"half, compressed":         {gzipped(t, whole)[:len(gzipped(t, whole))/2], "damaged"},
		"gzip of nothing":          {[]byte{0x1f, 0x8b, 0x08}, "damaged"},
		"something else":           {members(t, "README", "hello"), "manifest.json"},
		"no image":                 {members(t, "manifest.json", "[]"), "no image"},
		"no JSON":                  {members(t, "manifest.json", "{"), "manifest.json"},
		"config missing":           {members(t, "manifest.json", `[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]`), "not in the archive"},
		"no name":                  {members(t, "manifest.json", `[{"Config":"c","Layers":[]}]`, "c", "{}"), "--name"},
		"bad name":                 {members(t, "manifest.json", `[{"Config":"c","RepoTags":["UPPER CASE"],"Layers":[]}]`, "c", "{}"), "name of an image"},
		"too few layers":           {members(t, "manifest.json", `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`, "c", "{}"), "1 layers"},
		"layer missing":            {members(t, "manifest.json", dockerManifest("a:1", "l"), "c", configOf(layertest.Tar(t))), "not in the archive"},
		"layer with other content": {members(t, "manifest.json", dockerManifest("a:1", "l"), "c", configOf([]byte("x")), "l", string(layertest.Tar(t))), "another digest"},
		"config with other digest": {members(t, "manifest.json", strings.Replace(dockerManifest("a:1", "l"), `"c"`, `"`+strings.Repeat("0", 64)+`.json"`, 1), strings.Repeat("0", 64)+".json", "{}"), "another digest"},
		"a link that leads round":  {layertest.Tar(t, layertest.Symlink("manifest.json", "b"), layertest.Symlink("b", "manifest.json")), "manifest.json"},
		"foreign layer":            {typed(types.OCIRestrictedLayer), "cannot be unpacked"},
		"encrypted layer":          {typed("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "cannot be unpacked"},
		"layer that is no tar":     {typed(types.OCILayer), "layer 1 of 1"},
		"empty index":              {members(t, "oci-layout", "{}", "index.json", `{"manifests":[]}`), "no image"},
		"index without its blobs":  {members(t, "oci-layout", "{}", "index.json", indexOf(t, oci)), "not complete"},
		"digest that is a path":    {members(t, "index.json", `{"manifests":[{"digest":"sha256:../../x","size":1}]}`), "index.json"},
		"no image but a chart":     {chart(t), "something else"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, dir := open(t, image.Limits{})
			_, err := s.Import(t.Context(), bytes.NewReader(c.archive), image.ImportOptions{})
			refused(t, err, dayfly.Invalid, c.says)
			bare(t, dir)
		})
	}
}

func dockerManifest(tag, layer string) string {
	return `[{"Config":"c","RepoTags":["` + tag + `"],"Layers":["` + layer + `"]}]`
}

func configOf(layer []byte) string {
	h, _, _ := v1.SHA256(bytes.NewReader(layer))
	b, _ := json.Marshal(v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{h}}})
	return string(b)
}

// indexOf takes index.json out of an archive.
func indexOf(t testing.TB, archive []byte) string {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Name == "index.json" {
			b := make([]byte, hdr.Size)
			if _, err := tr.Read(b); err != nil && int64(len(b)) != hdr.Size {
				t.Fatal(err)
			}
			return string(b)
		}
	}
}

func chart(t testing.TB) []byte {
	t.Helper()
	img := mutate.ConfigMediaType(hello(t), "application/vnd.cncf.helm.config.v1+json")
	return packed(t, layoutDir(t, map[string]v1.Image{"chart:1": img}))
}

// TestDamagedBlobsAreRefused changes one byte of, cuts, and lengthens every
// blob of a layout in turn.
func TestDamagedBlobsAreRefused(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	for what, damage := range map[string]func([]byte) []byte{
		"changed":    func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":        func(b []byte) []byte { return b[:len(b)-1] },
		"lengthened": func(b []byte) []byte { return append(b, 0) },
		"empty":      func([]byte) []byte { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			src := layoutDir(t, map[string]v1.Image{"hello:1": hello(t)})
			blobs, err := filepath.Glob(filepath.Join(src, "blobs/sha256/*"))
			if err != nil || len(blobs) != 3 {
				t.Fatal(blobs, err)
			}
			for _, blob := range blobs {
				whole, err := os.ReadFile(blob)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(blob, damage(bytes.Clone(whole)), 0o600); err != nil {
					t.Fatal(err)
				}
				s, dir := open(t, image.Limits{})
				_, err = s.ImportDir(t.Context(), src, image.ImportOptions{})
				refused(t, err, dayfly.Invalid)
				bare(t, dir)
				if err := os.WriteFile(blob, whole, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestBombsAndOtherExcessesAreRefused(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	zeros := func(mib int) []byte {
		return layertest.Tar(t, layertest.File("zeros", strings.Repeat("\x00", mib<<20)))
	}
	small := layertest.Tar(t, layertest.File("a", ""), layertest.File("b", ""), layertest.File("c", ""))
	for limit, c := range map[string]struct {
		limits image.Limits
		img    v1.Image
	}{
		"compression ratio":  {image.Limits{RatioFloor: 1 << 20, Ratio: 100}, zipped(t, zeros(8))},
		"layer bytes":        {image.Limits{LayerBytes: 4 << 20}, zipped(t, zeros(8))},
		"image bytes":        {image.Limits{ImageBytes: 3 << 20}, zipped(t, zeros(1), zeros(1), zeros(1))},
		"layers":             {image.Limits{Layers: 2}, zipped(t, small, small, small)},
		"manifest bytes":     {image.Limits{ManifestBytes: 20}, zipped(t, small)},
		"entries":            {image.Limits{Limits: layer.Limits{Entries: 2}}, zipped(t, small)},
		"bytes of all files": {image.Limits{Limits: layer.Limits{FileBytes: 1 << 20}}, zipped(t, zeros(2))},
		"directory depth":    {image.Limits{}, zipped(t, layertest.Tar(t, layertest.File(strings.Repeat("d/", 300)+"f", "")))},
		"path bytes":         {image.Limits{}, zipped(t, layertest.Tar(t, layertest.File(strings.Repeat(strings.Repeat("d", 250)+"/", 20)+"f", "")))},
	} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			s, dir := open(t, c.limits)
			src := layoutDir(t, map[string]v1.Image{"x:1": c.img})
			_, err := s.ImportDir(t.Context(), src, image.ImportOptions{})
			refused(t, err, dayfly.Exhausted, limit)
			bare(t, dir)
		})
	}
	t.Run("a bomb around the archive", func(t *testing.T) {
		t.Parallel()
		s, dir := open(t, image.Limits{RatioFloor: 1 << 20, Ratio: 100})
		_, err := s.Import(t.Context(), bytes.NewReader(gzipped(t, zeros(8))), image.ImportOptions{})
		refused(t, err, dayfly.Exhausted, "compression ratio")
		bare(t, dir)
	})
	t.Run("small layers compress as well as they like", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t, image.Limits{})
		load(t, s, saved(t, "x:1", zipped(t, zeros(16))), "x")
	})
}
