package layer_test

import (
	"archive/tar"
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/image/layer"
	"github.com/dayfly/dayfly/image/layer/layertest"
)

var fuzzLimits = layer.Limits{Entries: 200, FileBytes: 1 << 20, Depth: 20}

// guarded makes a root with a neighbour that nothing may touch.
func guarded(t testing.TB) (r *layer.Root, check func()) {
	t.Helper()
	top := t.TempDir()
	for _, f := range []string{"canary", "beside/canary"} {
		f = filepath.Join(top, f)
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(f, layertest.Stamp, layertest.Stamp); err != nil {
			t.Fatal(err)
		}
	}
	before := layertest.List(t, top)
	r, err := layer.Create(filepath.Join(top, "root"), fuzzLimits, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r, func() {
		t.Helper()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		after := layertest.List(t, top, "root")
		if len(after) != len(before) {
			t.Fatalf("outside of the root there is now %q, before %q", after, before)
		}
		for i := range after {
			if after[i] != before[i] {
				t.Fatalf("outside of the root there is now %q, before %q", after, before)
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(top, "beside/canary"), &st); err != nil || st.Nlink != 1 || st.Mtim.Sec != layertest.Stamp.Unix() {
			t.Fatalf("the canary was touched: %v %+v", err, st)
		}
	}
}

// FuzzLayer applies a stack of layers made of the names and kinds that do harm,
// and looks whether anything outside of the root has changed.
func FuzzLayer(f *testing.F) {
	needsRoot(f)
	f.Add([]byte{1, 0, 1, 2, 0, 3, 0x81, 4, 5, 0, 2, 6, 7, 0, 0})
	f.Add([]byte{2, 3, 9, 1, 3, 10, 4, 3, 8, 0x85, 1, 2, 5, 11, 3})
	f.Add(bytes.Repeat([]byte{2, 10, 9, 1, 11, 3, 4, 11, 3}, 10))
	f.Fuzz(func(t *testing.T, program []byte) {
		r, check := guarded(t)
		defer check()
		for _, l := range compile(program) {
			if r.Apply(t.Context(), bytes.NewReader(layertest.Tar(t, l...))) != nil {
				return
			}
		}
		_ = r.MountPoints()
	})
}

// words are joined to paths: few, so that entries meet, and each of them with
// a purpose.
var words = []string{
	"a", "b", "c", "..", ".", "", ".wh.a", ".wh.b", ".wh..wh..opq", "../../..", "/", "a/b", "beside", "canary", ".wh...", "../beside/canary",
}

// compile makes layers of a program: four bytes an entry, its kind (the highest
// bit begins a layer), two halves of its name, its link's target.
func compile(program []byte) [][]layertest.Entry {
	layers := [][]layertest.Entry{nil}
	kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeReg}
	word := func(b byte) string { return words[b%byte(len(words))] }
	for len(program) >= 4 && len(layers) < 8 {
		p := program[:4]
		program = program[4:]
		if p[0]&0x80 != 0 {
			layers = append(layers, nil)
		}
		name, target := word(p[1])+"/"+word(p[2]), word(p[3])+"/"+word(p[3]>>4)
		if name = strings.TrimRight(name, "/"); name == "" {
			name = "."
		}
		e := layertest.Entry{Header: tar.Header{Typeflag: kinds[int(p[0]&0x7f)%len(kinds)], Name: name, Mode: 0o7755, Uid: 1}}
		switch e.Typeflag {
		case tar.TypeReg:
			e.Body = "harm"
		case tar.TypeSymlink, tar.TypeLink:
			e.Linkname = target
		}
		e.ModTime = time.Unix(1, 0)
		last := len(layers) - 1
		layers[last] = append(layers[last], e)
	}
	return layers
}

// FuzzArchive applies any bytes as a layer.
func FuzzArchive(f *testing.F) {
	needsRoot(f)
	for _, c := range layertest.Cases() {
		for _, l := range c.Layers {
			if b := layertest.Tar(f, l...); len(b) < 16<<10 {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		r, check := guarded(t)
		defer check()
		_ = r.Apply(t.Context(), bytes.NewReader(archive))
	})
}
