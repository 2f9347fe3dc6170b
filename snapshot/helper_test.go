package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly/keyring"
)

func testKey(first byte) *keyring.Key {
	k := new(keyring.Key)
	for i := range k {
		k[i] = first + byte(i)
	}
	return k
}

// noise is the same bytes for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// content is what a test puts into a generation.
type content struct {
	memory  []byte
	extents []Extent
	state   []byte
	disks   []string // paths of layers
	meta    Meta
}

func whole(size int) []Extent { return []Extent{{0, int64(size)}} }

func meta(id string) Meta {
	return Meta{
		ID:        id,
		CreatedAt: time.Date(2026, 11, 1, 12, 0, 0, 5, time.UTC),
		Machine: Machine{
			VMM: "qemu", VMMVersion: "10.0.0", Accel: "tcg", CPUModel: "max", Kernel: "k1", CPUs: 2, MemoryMiB: 4,
		},
		Config: json.RawMessage(`{"a":"<&>","b":[1,2]}`),
	}
}

// small is a generation of three chunks with zero pages between, a state, and
// two layers with holes, made in dir.
func small(t testing.TB, dir string) content {
	t.Helper()
	c := content{memory: noise(1, 700*PageSize), state: noise(2, 5000), meta: meta("g")}
	clear(c.memory[100*PageSize : 130*PageSize])
	clear(c.memory[300*PageSize : 301*PageSize])
	c.extents = []Extent{{600 * PageSize, 100 * PageSize}, {0, 550 * PageSize}}
	clear(c.memory[550*PageSize : 600*PageSize])
	for i := range 2 {
		path := filepath.Join(dir, []string{"base", "overlay"}[i])
		layer(t, path, byte(i))
		c.disks = append(c.disks, path)
	}
	return c
}

// layer makes a file of a little more than 5 MiB with data in two places.
func layer(t testing.TB, path string, seed byte) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(5<<20+100))
	_, err = f.WriteAt(noise(10+seed, 9000), 4096)
	check(t, err)
	_, err = f.WriteAt(noise(20+seed, 100), 5<<20)
	check(t, err)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// build makes a generation as a caller does, and aborts it on failure.
func build(ctx context.Context, on files, dir string, c content) (Manifest, error) {
	w, err := create(on, dir, testKey(0))
	if err != nil {
		return Manifest{}, err
	}
	err = fill(ctx, w, c)
	if err != nil {
		return Manifest{}, errors.Join(err, w.Abort())
	}
	return w.Commit(ctx, c.meta)
}

func fill(ctx context.Context, w *Writer, c content) error {
	if err := w.RAM(ctx, bytes.NewReader(c.memory), int64(len(c.memory)), c.extents); err != nil {
		return err
	}
	if err := w.State(ctx, c.state); err != nil {
		return err
	}
	for i, path := range c.disks {
		if err := w.Disk(ctx, path, []string{Raw, Qcow2}[i%2]); err != nil {
			return err
		}
	}
	return nil
}

func mustBuild(t testing.TB, dir string, c content) Manifest {
	t.Helper()
	m, err := build(t.Context(), host{}, dir, c)
	check(t, err)
	return m
}

// sink is a memory that pages are loaded into.
type sink struct {
	mu sync.Mutex // guards b for the race detector: runs never overlap
	b  []byte
}

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off < 0 || off+int64(len(p)) > int64(len(s.b)) {
		return 0, errors.New("outside of the memory")
	}
	return copy(s.b[off:], p), nil
}

// readAll opens a generation and reads everything in it. The memory is what
// was written to it, whatever the error.
func readAll(ctx context.Context, dir string, size int) (memory, state []byte, err error) {
	g, err := Open(dir, testKey(0))
	if err != nil {
		return nil, nil, err
	}
	defer g.Close()
	s := &sink{b: make([]byte, size)}
	if err := g.LoadRAM(ctx, s); err != nil {
		return s.b, nil, err
	}
	state, err = g.State(ctx)
	if err != nil {
		return s.b, nil, err
	}
	return s.b, state, g.VerifyDisks(ctx)
}

// mustHold asserts that the generation at dir opens and holds c.
func mustHold(t testing.TB, dir string, c content) {
	t.Helper()
	memory, state, err := readAll(t.Context(), dir, len(c.memory))
	if err != nil {
		t.Fatalf("the generation does not read: %v", err)
	}
	if !bytes.Equal(memory, c.memory) || !bytes.Equal(state, c.state) {
		t.Fatal("memory or state came back changed")
	}
	for i, path := range c.disks {
		want, err := os.ReadFile(path)
		check(t, err)
		got, err := os.ReadFile(filepath.Join(dir, diskName(i)))
		check(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("layer %d came back changed", i)
		}
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}
