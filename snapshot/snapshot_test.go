package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
)

func TestGenerationComesBackAsItWas(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(top, "")
		check(t, err)
		defer os.RemoveAll(dir)
		c := draw(rt, t, dir)
		gen := filepath.Join(dir, "gen")
		m, err := build(t.Context(), host{}, gen, c)
		if err != nil {
			rt.Fatal(err)
		}
		memory, state, err := readAll(t.Context(), gen, len(c.memory))
		if err != nil || !bytes.Equal(memory, c.memory) || !bytes.Equal(state, c.state) {
			rt.Fatalf("memory or state came back changed, or not: %v", err)
		}
		stored := 0
		for p := 0; p < len(c.memory); p += PageSize {
			if !isZero(c.memory[p : p+PageSize]) {
				stored += PageSize
			}
		}
		if m.RAM.Size != int64(len(c.memory)) || m.RAM.Stored != int64(stored) || m.State != int64(len(c.state)) || len(m.Disks) != len(c.disks) {
			rt.Fatalf("manifest %+v for %d bytes of which %d are not zero", m, len(c.memory), stored)
		}
	})
}

// draw makes up a machine: outside its extents its memory is zero.
func draw(rt *rapid.T, t *testing.T, dir string) content {
	pages := rapid.IntRange(1, 1200).Draw(rt, "pages")
	c := content{
		memory: make([]byte, pages*PageSize),
		state:  noise(7, rapid.IntRange(0, 60_000).Draw(rt, "state")),
		meta:   meta(rapid.StringMatching(`[a-z0-9-]{1,64}`).Draw(rt, "id")),
	}
	for at := 0; at < pages; {
		at += rapid.IntRange(0, 300).Draw(rt, "gap")
		n := min(rapid.IntRange(0, 600).Draw(rt, "len"), pages-at)
		if n < 0 {
			break
		}
		c.extents = append(c.extents, Extent{int64(at) * PageSize, int64(n) * PageSize})
		every := rapid.IntRange(1, 9).Draw(rt, "zeros") // 1: none of the extent's pages is zero
		copy(c.memory[at*PageSize:], noise(byte(at), n*PageSize))
		for p := at; p < at+n; p++ {
			if every > 1 && p%every == 0 {
				clear(c.memory[p*PageSize : (p+1)*PageSize])
			}
		}
		at += n
	}
	if len(c.extents) > 1 && rapid.Bool().Draw(rt, "backwards") {
		slices.Reverse(c.extents)
	}
	for i := range rapid.IntRange(0, 3).Draw(rt, "disks") {
		path := filepath.Join(dir, fmt.Sprint("layer", i))
		layer(t, path, byte(i))
		c.disks = append(c.disks, path)
	}
	return c
}

func TestManifestComesBackAsItWas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gen := filepath.Join(dir, "g")
	c := small(t, dir)
	c.meta.CreatedAt = time.Now() // with a monotonic clock and a zone
	want := mustBuild(t, gen, c)
	g, err := Open(gen, testKey(0))
	check(t, err)
	defer g.Close()
	if diff := cmp.Diff(want, g.Manifest()); diff != "" {
		t.Fatal(diff)
	}
	if !want.CreatedAt.Equal(c.meta.CreatedAt) || !bytes.Equal(want.Config, c.meta.Config) || want.Machine != c.meta.Machine {
		t.Fatalf("the caller's part changed: %+v", want.Meta)
	}
	for i, d := range want.Disks {
		a, errA := os.Stat(c.disks[i])
		b, errB := os.Stat(g.DiskPath(i))
		if errA != nil || errB != nil || !os.SameFile(a, b) || d.Size != a.Size() || d.Allocated == 0 || d.Allocated >= d.Size {
			t.Errorf("layer %d is no link to what was given, or misdescribed: %+v", i, d)
		}
	}
}

// huge is a memory of which most must never be read.
type huge struct {
	read    atomic.Int64
	outside atomic.Bool
}

const hugeAt = 5 << 30

func (h *huge) ReadAt(p []byte, off int64) (int, error) {
	h.read.Add(int64(len(p)))
	if off < hugeAt || off+int64(len(p)) > hugeAt+3<<20 {
		h.outside.Store(true)
	}
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

func TestOnlyExtentsAreRead(t *testing.T) {
	t.Parallel()
	w, err := Create(filepath.Join(t.TempDir(), "g"), testKey(0))
	check(t, err)
	var h huge
	check(t, w.RAM(t.Context(), &h, 8<<30, []Extent{{hugeAt + 2<<20, 1 << 20}, {hugeAt, 2 << 20}}))
	check(t, w.State(t.Context(), nil))
	m, err := w.Commit(t.Context(), meta("g"))
	check(t, err)
	if h.outside.Load() || h.read.Load() != 3<<20 || m.RAM.Stored != 3<<20 || m.RAM.Chunks != 3 {
		t.Fatalf("read %d bytes, outside of the extents: %v; stored %+v", h.read.Load(), h.outside.Load(), m.RAM)
	}
}

func TestManyReadersAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	mustBuild(t, filepath.Join(dir, "g"), c)
	g, err := Open(filepath.Join(dir, "g"), testKey(0))
	check(t, err)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := &sink{b: make([]byte, len(c.memory))}
			if err := g.LoadRAM(context.Background(), s); err != nil || !bytes.Equal(s.b, c.memory) {
				t.Errorf("LoadRAM = %v", err)
			}
			if state, err := g.State(context.Background()); err != nil || !bytes.Equal(state, c.state) {
				t.Errorf("State = %v", err)
			}
		})
	}
	wg.Wait()
	check(t, g.Close())
	check(t, g.Close())
	if err := g.LoadRAM(t.Context(), &sink{}); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("LoadRAM after Close = %v", err)
	}
}

func TestMemoryNeverReachesAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	marker := []byte("sixteen letters!")
	for off := 0; off < 50*PageSize; off += 512 {
		copy(c.memory[off:], marker)
	}
	copy(c.state[100:], marker)
	gen := filepath.Join(dir, "g")
	mustBuild(t, gen, c)
	for _, name := range names(t, gen) {
		b, err := os.ReadFile(filepath.Join(gen, name))
		check(t, err)
		if bytes.Contains(b, marker) {
			t.Errorf("%s holds plain memory", name)
		}
	}
}

func TestEqualMemoriesShareNoCiphertext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	copy(c.memory[2*PageSize:3*PageSize], c.memory[:PageSize]) // two equal pages in one chunk
	seen := map[[16]byte]string{}
	for _, id := range []string{"a", "b"} {
		mustBuild(t, filepath.Join(dir, id), c)
		for _, name := range []string{ramName, stateName} {
			b, err := os.ReadFile(filepath.Join(dir, id, name))
			check(t, err)
			for i := len(ramHeader) + 16; i+16 <= len(b); i += 16 { // the headers are equal
				block := [16]byte(b[i:])
				if other, ok := seen[block]; ok {
					t.Fatalf("a block of %s/%s is in %s too", id, name, other)
				}
				seen[block] = id + "/" + name
			}
		}
	}
}

func TestWhatIsThereIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	w, err := Create(gen, testKey(0))
	check(t, err)
	check(t, fill(t.Context(), w, c))
	check(t, os.Mkdir(gen, 0o700)) // empty: a plain rename would replace it
	if _, err := w.Commit(t.Context(), c.meta); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("Commit = %v, want a conflict", err)
	}
	if _, err := Create(gen, testKey(0)); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("Create = %v, want a conflict", err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"base", "g", "overlay"}) {
		t.Fatalf("left behind: %v", got)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	w, err := Create(filepath.Join(dir, "g"), testKey(0))
	check(t, err)
	check(t, fill(t.Context(), w, c))
	check(t, w.Abort())
	check(t, w.Abort())
	if got := names(t, dir); !slices.Equal(got, []string{"base", "overlay"}) {
		t.Fatalf("left behind: %v", got)
	}
	if err := w.State(t.Context(), nil); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("State after Abort = %v", err)
	}
	mustBuild(t, filepath.Join(dir, "g"), c)
}

func TestAbortAfterCommitDoesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	w, err := Create(filepath.Join(dir, "g"), testKey(0))
	check(t, err)
	check(t, fill(t.Context(), w, c))
	_, err = w.Commit(t.Context(), c.meta)
	check(t, err)
	check(t, w.Abort())
	if _, err := w.Commit(t.Context(), c.meta); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("second Commit = %v, want a conflict", err)
	}
	mustHold(t, filepath.Join(dir, "g"), c)
}

// TestNoNumberIsUsedTwice: a second write of one file would seal other bytes
// with the same key and numbers.
func TestNoNumberIsUsedTwice(t *testing.T) {
	t.Parallel()
	again := map[string]func(*Writer) error{
		ramName: func(w *Writer) error {
			return w.RAM(context.Background(), bytes.NewReader(make([]byte, PageSize)), PageSize, whole(PageSize))
		},
		stateName: func(w *Writer) error { return w.State(context.Background(), []byte("other")) },
	}
	for name, do := range again {
		dir := t.TempDir()
		w, err := Create(filepath.Join(dir, "g"), testKey(0))
		check(t, err)
		check(t, do(w))
		if err := do(w); dayfly.KindOf(err) != dayfly.Conflict {
			t.Errorf("%s twice = %v, want a conflict", name, err)
		}
		if _, err := w.Commit(t.Context(), meta("g")); err == nil || len(names(t, dir)) != 0 {
			t.Errorf("Commit after that = %v, left %v", err, names(t, dir))
		}
	}
}

func TestHalfAGenerationIsNotCommitted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "g"), testKey(0))
	check(t, err)
	check(t, w.State(t.Context(), nil))
	if _, err := w.Commit(t.Context(), meta("g")); dayfly.KindOf(err) != dayfly.Invalid || len(names(t, dir)) != 0 {
		t.Fatalf("Commit without memory = %v, left %v", err, names(t, dir))
	}
}

func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	t.Parallel()
	mem := bytes.NewReader(make([]byte, 4*PageSize))
	bad := map[string]func(*Writer) error{
		"no memory":        func(w *Writer) error { return w.RAM(t.Context(), mem, 0, nil) },
		"half a page":      func(w *Writer) error { return w.RAM(t.Context(), mem, 100, nil) },
		"too much memory":  func(w *Writer) error { return w.RAM(t.Context(), mem, maxRAM+PageSize, nil) },
		"unaligned":        func(w *Writer) error { return w.RAM(t.Context(), mem, 4*PageSize, []Extent{{1, PageSize}}) },
		"half a page long": func(w *Writer) error { return w.RAM(t.Context(), mem, 4*PageSize, []Extent{{0, 1}}) },
		"before the start": func(w *Writer) error { return w.RAM(t.Context(), mem, 4*PageSize, []Extent{{-PageSize, PageSize}}) },
		"behind the end": func(w *Writer) error {
			return w.RAM(t.Context(), mem, 4*PageSize, []Extent{{3 * PageSize, 2 * PageSize}})
		},
		"backwards": func(w *Writer) error { return w.RAM(t.Context(), mem, 4*PageSize, []Extent{{PageSize, -PageSize}}) },
		"overlapping": func(w *Writer) error {
			return w.RAM(t.Context(), mem, 4*PageSize, append(whole(PageSize), whole(PageSize)...))
		},
		"overflow": func(w *Writer) error {
			return w.RAM(t.Context(), mem, 4*PageSize, []Extent{{math.MaxInt64 - 4095, PageSize}})
		},
		"large state":       func(w *Writer) error { return w.State(t.Context(), make([]byte, maxState+1)) },
		"format":            func(w *Writer) error { return w.Disk(t.Context(), "x", "vmdk") },
		"directory as disk": func(w *Writer) error { return w.Disk(t.Context(), t.TempDir(), Raw) },
	}
	w, err := Create(filepath.Join(t.TempDir(), "g"), testKey(0))
	check(t, err)
	for name, do := range bad {
		if err := do(w); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if err := w.Disk(t.Context(), filepath.Join(t.TempDir(), "none"), Raw); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("missing layer: %v", err)
	}
	check(t, w.Abort())
}

func TestMetaOutOfBoundsIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Meta){
		"no id":        func(m *Meta) { m.ID = "" },
		"id of a path": func(m *Meta) { m.ID = "../x" },
		"long id":      func(m *Meta) { m.ID = strings.Repeat("a", 65) },
		"no JSON":      func(m *Meta) { m.Config = json.RawMessage("{") },
		"large config": func(m *Meta) { m.Config = json.RawMessage(`"` + strings.Repeat("a", maxConfig) + `"`) },
		"long text":    func(m *Meta) { m.Machine.CPUModel = strings.Repeat("a", maxText+1) },
		"negative":     func(m *Meta) { m.Machine.CPUs = -1 },
		"year":         func(m *Meta) { m.CreatedAt = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		dir := t.TempDir()
		c := content{memory: noise(1, PageSize), extents: whole(PageSize), meta: meta("g")}
		change(&c.meta)
		if _, err := build(t.Context(), host{}, filepath.Join(dir, "g"), c); dayfly.KindOf(err) != dayfly.Invalid || len(names(t, dir)) != 0 {
			t.Errorf("%s: %v, left %v", name, err, names(t, dir))
		}
	}
}

func TestCancelledWorkLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	w, err := Create(filepath.Join(dir, "g"), testKey(0))
	check(t, err)
	if err := w.RAM(gone, bytes.NewReader(c.memory), int64(len(c.memory)), c.extents); !errors.Is(err, context.Canceled) {
		t.Fatalf("RAM = %v", err)
	}
	check(t, w.Abort())
	w, err = Create(filepath.Join(dir, "g"), testKey(0))
	check(t, err)
	check(t, fill(t.Context(), w, c))
	if _, err := w.Commit(gone, c.meta); !errors.Is(err, context.Canceled) {
		t.Fatalf("Commit = %v", err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"base", "overlay"}) {
		t.Fatalf("left behind: %v", got)
	}
	mustBuild(t, filepath.Join(dir, "g"), c)
	if _, _, err := readAll(gone, filepath.Join(dir, "g"), len(c.memory)); !errors.Is(err, context.Canceled) {
		t.Fatalf("LoadRAM = %v", err)
	}
}

// refusing makes no links, as another file system would.
type refusing struct{ host }

func (refusing) Link(from, to string) error {
	return &os.LinkError{Op: "link", Old: from, New: to, Err: unix.EXDEV}
}

func TestLayerThatCannotBeLinkedIsCopiedWithItsHoles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	m, err := build(t.Context(), refusing{}, gen, c)
	check(t, err)
	mustHold(t, gen, c)
	linked := mustBuild(t, filepath.Join(dir, "l"), c)
	for i, d := range m.Disks {
		if d.Size != linked.Disks[i].Size || d.Allocated > linked.Disks[i].Allocated+PageSize {
			t.Errorf("copied as %+v, the original is %+v", d, linked.Disks[i])
		}
	}
}

func TestUsageTellsWhatIsShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	m := mustBuild(t, gen, c)
	all, own, err := Usage(gen)
	check(t, err)
	shared := m.Disks[0].Allocated + m.Disks[1].Allocated
	if all-own != shared || own < m.RAM.Stored {
		t.Fatalf("Usage = %d, %d with %d shared", all, own, shared)
	}
	for _, path := range c.disks {
		check(t, os.Remove(path))
	}
	if again, own, err := Usage(gen); err != nil || again != all || own != all {
		t.Fatalf("Usage with nothing shared = %d, %d, %v, want %d", again, own, err, all)
	}
	if _, _, err := Usage(filepath.Join(dir, "none")); dayfly.KindOf(err) != dayfly.NotFound {
		t.Fatalf("Usage of nothing = %v", err)
	}
}

func TestAnythingCanBeRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := small(t, dir)
	gen := filepath.Join(dir, "g")
	for _, harm := range []func(){
		func() {},
		func() { check(t, os.Remove(filepath.Join(gen, ramName))) },
		func() { check(t, os.Remove(filepath.Join(gen, manifestName))) },
		func() { check(t, os.WriteFile(filepath.Join(gen, manifestName), []byte("x"), 0o600)) },
		func() { check(t, os.RemoveAll(gen)) },
		func() { check(t, os.RemoveAll(gen)); check(t, os.WriteFile(gen, nil, 0o600)) },
		func() {
			check(t, os.Remove(filepath.Join(gen, manifestName)))
			check(t, os.MkdirAll(filepath.Join(gen, manifestName, "x"), 0o700))
		},
	} {
		mustBuild(t, gen, c)
		harm()
		check(t, Remove(gen))
		if got := names(t, dir); !slices.Equal(got, []string{"base", "overlay"}) {
			t.Fatalf("left behind: %v", got)
		}
	}
}

func TestSweepTakesLeftoversOnly(t *testing.T) {
	t.Parallel()
	layers, dir := t.TempDir(), t.TempDir()
	c := small(t, layers)
	mustBuild(t, filepath.Join(dir, "kept"), c)
	mustBuild(t, filepath.Join(dir, "half"), c)
	check(t, os.Remove(filepath.Join(dir, "half", manifestName)))
	check(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	w, err := Create(filepath.Join(dir, "unfinished"), testKey(0))
	check(t, err)
	check(t, fill(t.Context(), w, c))
	check(t, w.closeFiles()) // as the end of the process does
	check(t, os.WriteFile(filepath.Join(dir, "note"), nil, 0o600))
	check(t, os.Symlink(layers, filepath.Join(dir, "link")))
	check(t, Sweep(dir))
	check(t, Sweep(filepath.Join(dir, "none")))
	if got := names(t, dir); !slices.Equal(got, []string{"kept", "link", "note"}) {
		t.Fatalf("after Sweep: %v", got)
	}
	mustHold(t, filepath.Join(dir, "kept"), c)
}
