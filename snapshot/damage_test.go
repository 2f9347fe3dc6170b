package snapshot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

// mustRefuse asserts that the generation is noticed to be damaged, that the
// error names the file, and that no byte of it came through.
func mustRefuse(t *testing.T, dir string, c content, what, name string) {
	t.Helper()
	memory, _, err := readAll(t.Context(), dir, len(c.memory))
	if !errors.Is(err, ErrDamaged) || dayfly.KindOf(err) != dayfly.Internal || !strings.Contains(err.Error(), "its "+name+" is damaged: use an older one") {
		t.Fatalf("%s: %v, want the damage of %s", what, err, name)
	}
	for p := 0; p+PageSize <= len(memory); p += PageSize {
		if page := memory[p : p+PageSize]; !isZero(page) && !bytes.Equal(page, c.memory[p:p+PageSize]) {
			t.Fatalf("%s: page %d of the memory is neither zero nor what it was", what, p/PageSize)
		}
	}
}

// flip changes one byte of a file, and gives it back.
func flip(t *testing.T, path string, at int64, bits byte) (restore func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	check(t, err)
	_, err = f.WriteAt([]byte{b[0] ^ bits}, at)
	check(t, err)
	return func() {
		_, err := f.WriteAt(b, at)
		check(t, err)
		check(t, f.Close())
	}
}

func TestEveryBitOfTheManifestCounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustBuild(t, filepath.Join(dir, "g"), small(t, dir))
	good, err := os.ReadFile(filepath.Join(dir, "g", manifestName))
	check(t, err)
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			_, _, err := parseManifest(b, testKey(0))
			newer := i == len(versionPrefix) && errors.Is(err, ErrNewer)
			if !newer && !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	for n := range good {
		if _, _, err := parseManifest(good[:n], testKey(0)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, _, err := parseManifest(append(bytes.Clone(good), '\n'), testKey(0)); !errors.Is(err, ErrDamaged) {
		t.Fatalf("one byte longer: %v", err)
	}
}

func TestEveryDamagedByteIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	m := mustBuild(t, gen, c)
	st, err := os.Stat(filepath.Join(gen, ramName))
	check(t, err)
	for name, at := range map[string][]int64{
		manifestName: every(0, 300, 7),
		// Headers whole, samples of chunks, the last chunk's runs, and the index whole.
		ramName:   append(append(every(0, 40, 1), every(40, st.Size()-200, 40_009)...), every(st.Size()-200, st.Size(), 1)...),
		stateName: append(every(0, 60, 1), every(60, stateFileSize(m.State), 61)...),
		// Data, holes, and the last bytes, which are no whole page.
		"disk.0": append(every(0, m.Disks[0].Size-100, 100_003), every(m.Disks[0].Size-100, m.Disks[0].Size, 9)...),
		"disk.1": every(4096, 13_000, 997),
	} {
		for _, off := range at {
			restore := flip(t, filepath.Join(gen, name), off, 1<<(off%8))
			mustRefuse(t, gen, c, name, strings.TrimSuffix(name, ".json"))
			restore()
		}
	}
	mustHold(t, gen, c)
}

func every(from, to, step int64) []int64 {
	var at []int64
	for ; from < to; from += step {
		at = append(at, from)
	}
	return at
}

func TestFileOfAnotherLengthIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	for _, name := range []string{manifestName, ramName, stateName, "disk.0", "disk.1"} {
		for _, change := range []int64{-1, -5000, 1, 5000, -1 << 40} {
			c := c
			c.disks = nil
			for i := range 2 { // damage must not reach the next round through the links
				path := filepath.Join(t.TempDir(), "layer")
				layer(t, path, byte(i))
				c.disks = append(c.disks, path)
			}
			mustBuild(t, gen, c)
			path := filepath.Join(gen, name)
			st, err := os.Stat(path)
			check(t, err)
			check(t, os.Truncate(path, max(0, st.Size()+change)))
			if g, err := Open(gen, testKey(0)); err == nil {
				t.Errorf("%s: opened: %v", name, g.Close())
			}
			mustRefuse(t, gen, c, name, strings.TrimSuffix(name, ".json"))
			check(t, Remove(gen))
		}
	}
}

func TestFileCutAfterOpenIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	mustBuild(t, gen, c)
	g, err := Open(gen, testKey(0))
	check(t, err)
	defer g.Close()
	for name, read := range map[string]func() error{
		ramName:   func() error { return g.LoadRAM(t.Context(), &sink{b: make([]byte, len(c.memory))}) },
		stateName: func() error { _, err := g.State(t.Context()); return err },
		"disk.0":  func() error { return g.VerifyDisks(t.Context()) },
	} {
		check(t, read())
		check(t, os.Truncate(filepath.Join(gen, name), 1000))
		if err := read(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s cut: %v", name, err)
		}
		check(t, os.Remove(filepath.Join(gen, name)))
		if err := read(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s removed: %v", name, err)
		}
	}
}

func TestReorderedChunksAreNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := content{memory: noise(1, 3*chunkBytes), extents: whole(3 * chunkBytes), meta: meta("g")}
	gen := filepath.Join(dir, "g")
	mustBuild(t, gen, c)
	path := filepath.Join(gen, ramName)
	b, err := os.ReadFile(path)
	check(t, err)
	n := chunkBytes + runLen + runsEnd + tagLen
	first, second := b[len(ramHeader):][:n], b[len(ramHeader)+n:][:n]
	kept := bytes.Clone(first)
	copy(first, second)
	check(t, os.WriteFile(path, b, 0o600)) // one chunk twice
	mustRefuse(t, gen, c, "twice", ramName)
	copy(second, kept)
	check(t, os.WriteFile(path, b, 0o600)) // both in the other's place
	mustRefuse(t, gen, c, "swapped", ramName)
}

func TestFilesOfAnotherGenerationAreNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	mustBuild(t, a, c) // the same content under the same key
	mustBuild(t, b, c)
	for name, blamed := range map[string]string{ramName: ramName, stateName: stateName, manifestName: ramName} {
		swap(t, filepath.Join(a, name), filepath.Join(b, name))
		mustRefuse(t, a, c, name, blamed)
		mustRefuse(t, b, c, name, blamed)
		swap(t, filepath.Join(a, name), filepath.Join(b, name))
	}
	swap(t, filepath.Join(a, "disk.0"), filepath.Join(a, "disk.1"))
	mustRefuse(t, a, c, "layers", "disk.0")
	mustHold(t, b, c)
}

func swap(t *testing.T, a, b string) {
	t.Helper()
	check(t, os.Rename(a, a+".kept"))
	check(t, os.Rename(b, a))
	check(t, os.Rename(a+".kept", b))
}

func TestMissingFileIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	mustBuild(t, gen, c)
	for _, name := range []string{manifestName, ramName, stateName, "disk.0", "disk.1"} {
		path := filepath.Join(gen, name)
		check(t, os.Rename(path, path+".kept"))
		mustRefuse(t, gen, c, "missing", strings.TrimSuffix(name, ".json"))
		check(t, os.Symlink(path+".kept", path)) // it could be changed unnoticed from elsewhere
		if g, err := Open(gen, testKey(0)); err == nil {
			t.Errorf("%s behind a link was opened: %v", name, g.Close())
		}
		check(t, os.Rename(path+".kept", path))
	}
	if _, err := Open(filepath.Join(dir, "none"), testKey(0)); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("Open of nothing = %v", err)
	}
}

func TestWrongKeyIsToldFromDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustBuild(t, filepath.Join(dir, "g"), small(t, dir))
	_, err := Open(filepath.Join(dir, "g"), testKey(1))
	if !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrDamaged) {
		t.Fatalf("Open = %v, want %v", err, ErrWrongKey)
	}
}

func TestForgedManifestIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustBuild(t, filepath.Join(dir, "g"), small(t, dir))
	good, err := os.ReadFile(filepath.Join(dir, "g", manifestName))
	check(t, err)
	forged := bytes.Replace(good, []byte(`"qemu"`), []byte(`"evil"`), 1)
	covered := forged[:len(forged)-len(crcPrefix)-crcLen-len(manifestEnd)]
	forged = append(append(bytes.Clone(covered), crcPrefix+crcText(covered)...), manifestEnd...)
	if bytes.Equal(forged, good) || len(forged) != len(good) {
		t.Fatal("nothing was forged")
	}
	if _, _, err := parseManifest(forged, testKey(0)); !errors.Is(err, ErrWrongKey) {
		t.Fatalf("parseManifest = %v, want %v", err, ErrWrongKey)
	}
}

func TestNewerVersionIsToldFromDamage(t *testing.T) {
	t.Parallel()
	for _, text := range []string{versionPrefix + "2,", versionPrefix + `17,"something":"else"}`} {
		if _, _, err := parseManifest([]byte(text), testKey(0)); !errors.Is(err, ErrNewer) || dayfly.KindOf(err) != dayfly.Unavailable {
			t.Errorf("%s: %v, want %v", text, err, ErrNewer)
		}
	}
	for _, text := range []string{"", versionPrefix, versionPrefix + "2", versionPrefix + "0,", versionPrefix + "-2,", versionPrefix + "99999999999,"} {
		if _, _, err := parseManifest([]byte(text), testKey(0)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v, want %v", text, err, ErrDamaged)
		}
	}
}
