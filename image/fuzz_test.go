package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dayfly/dayfly"
)

// FuzzImport looks for the images of an archive of any bytes: whatever it
// finds is whole, whatever it refuses is the archive's fault.
func FuzzImport(f *testing.F) {
	config := configJSON(f)
	h, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		f.Fatal(err)
	}
	manifest := mustJSON(f, v1.Manifest{
		SchemaVersion: 2, Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: size, Digest: h},
		Layers: []v1.Descriptor{{MediaType: types.OCILayer, Size: 1, Digest: h}},
	})
	mh, msize, err := v1.SHA256(bytes.NewReader(manifest))
	if err != nil {
		f.Fatal(err)
	}
	index := mustJSON(f, v1.IndexManifest{Manifests: []v1.Descriptor{{Size: msize, Digest: mh, Annotations: map[string]string{annotationRef: "a:1"}}}})
	f.Add(members(f, "manifest.json", `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`, "c", string(config), "l", ""))
	f.Add(members(f, "index.json", string(index), "blobs/sha256/"+mh.Hex, string(manifest), "blobs/sha256/"+h.Hex, string(config)))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	s, err := Open(f.TempDir(), Options{Limits: Limits{ManifestBytes: 64 << 10, ImageBytes: 1 << 20, RatioFloor: 64 << 10}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		found, err := s.search(t, archive)
		if kind := dayfly.KindOf(err); err != nil && kind != dayfly.Invalid && kind != dayfly.Exhausted && kind != dayfly.NotFound {
			t.Errorf("error is %v (%s)", err, kind)
		}
		for _, n := range found {
			if n.as.key == "" || len(n.image.diffIDs) != len(n.image.layers) || sum(n.image.manifest) != n.image.hex {
				t.Errorf("image is %+v", n)
			}
		}
	})
}

func (s *Store) search(t *testing.T, archive []byte) ([]named, error) {
	t.Helper()
	tmp, err := s.scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer tmp.remove()
	a, err := s.openArchive(t.Context(), bytes.NewReader(archive), tmp, &reporter{})
	if err != nil {
		return nil, err
	}
	defer a.close()
	return s.fromArchive(t.Context(), a, ImportOptions{})
}

func configJSON(t testing.TB) []byte {
	t.Helper()
	return mustJSON(t, v1.ConfigFile{
		OS: "linux", Architecture: "amd64",
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{{Algorithm: "sha256", Hex: sum(nil)}}},
	})
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func members(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
