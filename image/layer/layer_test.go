package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image/layer"
	"github.com/dayfly/dayfly/image/layer/layertest"
)

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs: root")
	}
}

// apply makes a root of layers, with a canary beside it.
func apply(t testing.TB, l layer.Limits, layers ...[]byte) (dir string, err error) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "root")
	r, err := layer.Create(dir, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, b := range layers {
		if err := r.Apply(t.Context(), bytes.NewReader(b)); err != nil {
			return dir, err
		}
	}
	return dir, nil
}

func TestLayersBecomeTheTreesTheyStandFor(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	for _, c := range layertest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			var layers [][]byte
			for _, l := range c.Layers {
				layers = append(layers, layertest.Tar(t, l...))
			}
			dir, err := apply(t, layer.Limits{}, layers...)
			if err != nil {
				t.Fatal(err)
			}
			layertest.Check(t, c, dir)
		})
	}
}

func TestMalformedLayersAreRefused(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	whole := layertest.Tar(t, layertest.File("a", strings.Repeat("x", 2000)))
	for name, b := range map[string][]byte{
		"not a tar archive":       bytes.Repeat([]byte("no"), 1000),
		"cut in a header":         whole[:300],
		"cut in a file":           whole[:2600],
		"hard link to nothing":    layertest.Tar(t, layertest.Hardlink("b", "a")),
		"hard link out":           layertest.Tar(t, layertest.Hardlink("b", "../../../../../../etc/passwd")),
		"hard link to the root":   layertest.Tar(t, layertest.Hardlink("b", "/")),
		"hard link to itself":     layertest.Tar(t, layertest.File("a", ""), layertest.Hardlink("a", "a")),
		"hard link to directory":  layertest.Tar(t, layertest.Dir("d", 0o755), layertest.Hardlink("b", "d")),
		"whiteout of no name":     layertest.Tar(t, layertest.File("d/.wh.", "")),
		"whiteout of itself":      layertest.Tar(t, layertest.File("d/.wh..", "")),
		"whiteout of the parent":  layertest.Tar(t, layertest.File("d/.wh...", "")),
		"file as a parent":        layertest.Tar(t, layertest.File("d", "1"), layertest.File("d/a", "1")),
		"loop of links":           layertest.Tar(t, layertest.Symlink("a", "b"), layertest.Symlink("b", "a"), layertest.File("a/c", "")),
		"a name too long":         layertest.Tar(t, layertest.File(strings.Repeat("n", 256), "")),
		"empty link":              layertest.Tar(t, layertest.Symlink("a", "")),
		"unknown type":            retype(layertest.Tar(t, layertest.File("a", "")), 'Z'),
		"owner beyond 32 bits":    layertest.Tar(t, layertest.File("a", "").Owner(1<<32, 0)),
		"device beyond its range": layertest.Tar(t, layertest.Device(tar.TypeChar, "a", 1<<12, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := apply(t, layer.Limits{}, b)
			if dayfly.KindOf(err) != dayfly.Invalid {
				t.Errorf("error is %v (%s), want an Invalid one", err, dayfly.KindOf(err))
			}
		})
	}
}

// retype changes the type of an archive's first entry, which has no PAX header.
func retype(b []byte, flag byte) []byte {
	const typeAt, sumAt = 156, 148
	b[typeAt] = flag
	copy(b[sumAt:], "        ")
	total := 0
	for _, c := range b[:512] {
		total += int(c)
	}
	copy(b[sumAt:], []byte{byte('0' + total>>15&7), byte('0' + total>>12&7), byte('0' + total>>9&7), byte('0' + total>>6&7), byte('0' + total>>3&7), byte('0' + total&7), 0, ' '})
	return b
}

func TestEveryLimitIsHeldAndNamed(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	up := layertest.Layer(layertest.Dir(strings.Repeat("d/", 9)+"d", 0o755))
	up = append(up, layertest.Symlink("l0", strings.Repeat("d/", 9)+"d")) // a short path to a deep place
	for name, c := range map[string]struct {
		limits layer.Limits
		layer  []layertest.Entry
	}{
		"entries":                  {layer.Limits{Entries: 3}, layertest.Layer(layertest.File("a", ""), layertest.File("b", ""), layertest.File("c", ""), layertest.File("d", ""))},
		"entries ":                 {layer.Limits{Entries: 3}, layertest.Layer(layertest.File("a/b/c/d", ""))},
		"bytes of all files":       {layer.Limits{FileBytes: 10}, layertest.Layer(layertest.File("a", "123456"), layertest.File("b", "123456"))},
		"directory depth":          {layer.Limits{Depth: 2}, layertest.Layer(layertest.File("a/b/c/d", ""))},
		"directory depth ":         {layer.Limits{Depth: 12}, append(up, layertest.Dir("l0/x/y/z/w", 0o755))},
		"path bytes":               {layer.Limits{PathBytes: 20}, layertest.Layer(layertest.File(strings.Repeat("n", 30), ""))},
		"extended attribute bytes": {layer.Limits{XattrBytes: 20}, layertest.Layer(layertest.File("a", "").Xattr("user.k", strings.Repeat("v", 20)))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := apply(t, c.limits, layertest.Tar(t, c.layer...))
			if dayfly.KindOf(err) != dayfly.Exhausted || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
				t.Errorf("error is %v (%s), want an Exhausted one that names %q", err, dayfly.KindOf(err), name)
			}
		})
	}
}

func TestDefaultLimitOfAttributesFitsTheFileSystem(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	most := layer.DefaultLimits.XattrBytes - len("user.k")
	if _, err := apply(t, layer.Limits{}, layertest.Tar(t, layertest.File("a", "").Xattr("user.k", strings.Repeat("v", most)))); err != nil {
		t.Error(err)
	}
}

func TestMountPointsAppearWhereMissingAndStayWhereNot(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	dir := filepath.Join(t.TempDir(), "root")
	r, err := layer.Create(dir, layer.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := layertest.Tar(t, layertest.Dir("tmp", 0o700), layertest.Symlink("run", "var/run"), layertest.File("dev", "?"))
	if err := r.Apply(t.Context(), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if err := r.MountPoints(); err != nil {
		t.Fatal(err)
	}
	layertest.Check(t, layertest.Case{Want: []string{
		`f 0644 0:0 dev "?"`, `d 0755 0:0 proc`, `l 0777 0:0 run -> var/run`, `d 0755 0:0 sys`, `d 0700 0:0 tmp`,
	}}, dir)
}

func TestApplyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	r, err := layer.Create(filepath.Join(t.TempDir(), "root"), layer.Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Apply(ctx, bytes.NewReader(layertest.Tar(t, layertest.File("a", "")))); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
}
