package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly"
)

var errCut = errors.New("the power is off")

// rig is the files of this machine, of which operation number fail fails once,
// or all behind number cut. It knows what would survive a power cut: contents
// and names that were synced, and nothing else.
type rig struct {
	host
	linkless  bool
	fail, cut int // 0: never
	err       error

	mu      sync.Mutex // guards what follows
	ops     int
	log     []string                     // of what was removed and synced, by base names
	content map[uint64][]byte            // synced content by inode
	entries map[uint64]map[string]uint64 // synced names by inode of the directory
}

func newRig(t *testing.T, parent string) *rig {
	t.Helper()
	r := &rig{content: map[uint64][]byte{}, entries: map[uint64]map[string]uint64{}}
	check(t, filepath.WalkDir(parent, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, r.keep(path)) // what was there before is durable
	}))
	return r
}

// op counts an operation and says whether it fails.
func (r *rig) op() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops++
	if r.cut != 0 && r.ops > r.cut {
		return errCut
	}
	if r.ops == r.fail {
		return r.err
	}
	return nil
}

func (r *rig) do(work func() error) error {
	if err := r.op(); err != nil {
		return err
	}
	return work()
}

// keep records that a file's content, or a directory's names, are durable.
func (r *rig) keep(path string) error {
	id, err := inode(path)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err == nil {
		of := map[string]uint64{}
		for _, e := range entries {
			if of[e.Name()], err = inode(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.entries[id] = of
		return nil
	}
	b, err := os.ReadFile(path)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content[id] = b
	return err
}

func inode(path string) (uint64, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return st.Sys().(*syscall.Stat_t).Ino, nil
}

func (r *rig) Mkdir(path string) error { return r.do(func() error { return r.host.Mkdir(path) }) }

func (r *rig) Remove(path string) error {
	r.log = append(r.log, "remove "+filepath.Base(path))
	return r.do(func() error { return r.host.Remove(path) })
}

func (r *rig) RemoveAll(path string) error {
	r.log = append(r.log, "remove all of "+filepath.Base(path))
	return r.do(func() error { return r.host.RemoveAll(path) })
}

func (r *rig) Rename(from, to string) error {
	return r.do(func() error { return r.host.Rename(from, to) })
}

func (r *rig) Sync(path string) error {
	r.log = append(r.log, "sync "+filepath.Base(path))
	return r.do(func() error { return r.keep(path) })
}

func (r *rig) Clone(from *os.File, to file) error {
	return r.do(func() error { return syscall.EOPNOTSUPP })
}

func (r *rig) Link(from, to string) error {
	return r.do(func() error {
		if r.linkless {
			return syscall.EXDEV
		}
		return r.host.Link(from, to)
	})
}

func (r *rig) Create(path string) (file, error) {
	if err := r.op(); err != nil {
		return nil, err
	}
	f, err := r.host.Create(path)
	return &rigFile{f, r, path}, err
}

type rigFile struct {
	file
	rig  *rig
	path string
}

func (f *rigFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.rig.op(); err != nil {
		n, _ := f.file.WriteAt(b[:len(b)/2], off) // full disks take a part
		return n, err
	}
	return f.file.WriteAt(b, off)
}

func (f *rigFile) Sync() error { return f.rig.do(func() error { return f.rig.keep(f.path) }) }

func (f *rigFile) Truncate(n int64) error {
	return f.rig.do(func() error { return f.file.Truncate(n) })
}

func (f *rigFile) Close() error {
	err := f.rig.op()
	return errors.Join(f.file.Close(), err)
}

// aftermath is what a power cut may leave of a directory.
type aftermath struct {
	name            string
	names, contents bool // those that were not synced have survived
}

var aftermaths = []aftermath{
	{name: "only what was synced"},
	{name: "names without content", names: true},
	{name: "content without names", contents: true},
	{name: "everything", names: true, contents: true},
}

// survive makes at to what is there of from after the power cut.
func (r *rig) survive(t *testing.T, from, to string, a aftermath) {
	t.Helper()
	id, err := inode(from)
	check(t, err)
	paths := map[uint64]string{} // all that is there before the cut
	check(t, filepath.WalkDir(from, func(path string, _ fs.DirEntry, err error) error {
		check(t, err)
		id, err := inode(path)
		paths[id] = path
		return err
	}))
	r.restore(t, id, to, paths, a)
}

func (r *rig) restore(t *testing.T, id uint64, to string, paths map[uint64]string, a aftermath) {
	t.Helper()
	path, there := paths[id]
	st, err := os.Lstat(path)
	_, synced := r.entries[id]
	if there && err == nil && st.IsDir() || !there && synced {
		names := r.entries[id]
		if a.names && there {
			live := &rig{content: map[uint64][]byte{}, entries: map[uint64]map[string]uint64{}}
			check(t, live.keep(path))
			names = live.entries[id]
		}
		check(t, os.Mkdir(to, 0o700))
		for name, child := range names {
			r.restore(t, child, filepath.Join(to, name), paths, a)
		}
		return
	}
	b := r.content[id]
	if a.contents && there {
		b, err = os.ReadFile(path)
		check(t, err)
	}
	check(t, os.WriteFile(to, b, 0o600))
}

// scene is a directory with a generation, in which the next one is made.
type scene struct {
	parent string
	c      content
}

func newScene(t *testing.T) scene {
	t.Helper()
	c := small(t, t.TempDir())
	c.memory, c.extents = c.memory[:280*PageSize], whole(280*PageSize) // two chunks
	for i, path := range c.disks {
		check(t, os.WriteFile(path, noise(byte(i), 20_000), 0o600))
	}
	s := scene{t.TempDir(), c}
	mustBuild(t, filepath.Join(s.parent, "earlier"), c)
	return s
}

func TestFailedWriteLeavesNothingAndTheEarlierGeneration(t *testing.T) {
	t.Parallel()
	for _, linkless := range []bool{false, true} {
		for want, fault := range map[dayfly.Kind]error{dayfly.Exhausted: syscall.ENOSPC, dayfly.Internal: syscall.EIO} {
			t.Run(fmt.Sprint(fault, linkless), func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				gen := filepath.Join(s.parent, "next")
				for k := 1; ; k++ {
					r := newRig(t, s.parent)
					r.linkless, r.fail, r.err = linkless, k, fault
					_, err := build(t.Context(), r, gen, s.c)
					mustHold(t, filepath.Join(s.parent, "earlier"), s.c)
					if err == nil { // clones may fail: the layer is copied
						mustHold(t, gen, s.c)
						check(t, Remove(gen))
						if r.ops < k {
							return // all have failed once
						}
						continue
					}
					if got := dayfly.KindOf(err); got != want {
						t.Fatalf("operation %d: %v is %s, want %s", k, err, got, want)
					}
					if got := names(t, s.parent); !slices.Equal(got, []string{"earlier"}) {
						t.Fatalf("operation %d left %v", k, got)
					}
				}
			})
		}
	}
}

// TestPowerCutNeverLeavesHalfAGenerationThatOpens cuts the power behind every
// operation of making a generation and looks at all that may be left.
func TestPowerCutNeverLeavesHalfAGenerationThatOpens(t *testing.T) {
	t.Parallel()
	for _, linkless := range []bool{false, true} {
		t.Run(fmt.Sprint("linkless ", linkless), func(t *testing.T) {
			t.Parallel()
			cutEverywhere(t, func(s scene, r *rig) error {
				r.linkless = linkless
				_, err := build(t.Context(), r, filepath.Join(s.parent, "next"), s.c)
				return err
			}, true)
		})
	}
}

func TestPowerCutWhileRemovingLeavesWhatIsSwept(t *testing.T) {
	t.Parallel()
	cutEverywhere(t, func(s scene, r *rig) error {
		gen := filepath.Join(s.parent, "next")
		mustBuild(t, gen, s.c)
		for _, path := range []string{s.parent, gen} {
			check(t, r.keep(path))
		}
		for _, name := range names(t, gen) {
			check(t, r.keep(filepath.Join(gen, name)))
		}
		return remove(r, gen)
	}, false)
}

// cutEverywhere runs do with the power cut behind each of its operations. If
// do returned nil, next is whole, or gone, as it should be; else it may be
// either, once what is left has been swept.
func cutEverywhere(t *testing.T, do func(scene, *rig) error, whole bool) {
	t.Helper()
	for k := 1; ; k++ {
		s := newScene(t)
		r := newRig(t, s.parent)
		r.cut = k
		err := do(s, r)
		if err != nil && !errors.Is(err, errCut) {
			t.Fatalf("cut behind operation %d: %v", k, err)
		}
		for _, a := range aftermaths {
			after := filepath.Join(t.TempDir(), "after")
			r.survive(t, s.parent, after, a)
			what := fmt.Sprintf("cut behind operation %d, left %s, reported %v", k, a.name, err)
			mustBeWholeOrGone(t, after, s.c, what, err == nil, whole)
		}
		if r.ops <= k {
			return
		}
	}
}

func mustBeWholeOrGone(t *testing.T, parent string, c content, what string, done, whole bool) {
	t.Helper()
	gen := filepath.Join(parent, "next")
	_, _, err := readAll(t.Context(), gen, len(c.memory))
	if err == nil {
		mustHold(t, gen, c)
	}
	if done && (err == nil) != whole {
		t.Fatalf("%s: next reads with %v", what, err)
	}
	check(t, Sweep(parent))
	want := []string{"earlier"}
	if err == nil {
		want = append(want, "next")
	}
	if got := names(t, parent); !slices.Equal(got, want) {
		t.Fatalf("%s: next read with %v, and Sweep left %v", what, err, got)
	}
	mustHold(t, filepath.Join(parent, "earlier"), c)
}

func TestFailedRemoveCanBeRepeated(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	gen := filepath.Join(s.parent, "next")
	for k := 1; ; k++ {
		mustBuild(t, gen, s.c)
		r := newRig(t, s.parent)
		r.fail, r.err = k, syscall.EIO
		err := remove(r, gen)
		if err == nil {
			return
		}
		check(t, Sweep(s.parent))
		if _, _, err := readAll(t.Context(), gen, len(s.c.memory)); err != nil && dayfly.KindOf(err) != dayfly.NotFound {
			t.Fatalf("operation %d: %v after Sweep", k, err)
		}
		check(t, Remove(gen))
	}
}

// TestManifestIsGoneForGoodBeforeTheRest: else a power cut could leave it
// without the files it names, and Sweep would not know that for a leftover.
func TestManifestIsGoneForGoodBeforeTheRest(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	r := newRig(t, s.parent)
	check(t, remove(r, filepath.Join(s.parent, "earlier")))
	want := []string{"remove " + manifestName, "sync earlier", "remove all of earlier", "sync " + filepath.Base(s.parent)}
	if !slices.Equal(r.log, want) {
		t.Fatalf("removed by %q, want %q", r.log, want)
	}
}

// broken fails every read and write with one error.
type broken struct{ err error }

func (b broken) ReadAt([]byte, int64) (int, error)  { return 0, b.err }
func (b broken) WriteAt([]byte, int64) (int, error) { return 0, b.err }

// TestBrokenDeviceIsNotTakenForDamage: other remedies help against it.
func TestBrokenDeviceIsNotTakenForDamage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	g, err := Open(filepath.Join(s.parent, "earlier"), testKey(0))
	check(t, err)
	defer g.Close()
	for want, fault := range map[dayfly.Kind]error{dayfly.Exhausted: syscall.ENOSPC, dayfly.Internal: syscall.EIO} {
		if err := g.LoadRAM(t.Context(), broken{fault}); dayfly.KindOf(err) != want || errors.Is(err, ErrDamaged) || !errors.Is(err, fault) {
			t.Errorf("LoadRAM into %v = %v", fault, err)
		}
	}
	if err := readFull(broken{syscall.EIO}, ramName, make([]byte, 1), 0); dayfly.KindOf(err) != dayfly.Internal || errors.Is(err, ErrDamaged) {
		t.Errorf("read of a broken device = %v", err)
	}
	w, err := Create(filepath.Join(s.parent, "next"), testKey(0))
	check(t, err)
	if err := w.RAM(t.Context(), broken{syscall.EIO}, PageSize, whole(PageSize)); !errors.Is(err, syscall.EIO) || dayfly.KindOf(err) != dayfly.Internal {
		t.Errorf("RAM of an unreadable machine = %v", err)
	}
	if _, err := w.Commit(t.Context(), s.c.meta); !errors.Is(err, syscall.EIO) {
		t.Errorf("Commit after that = %v", err)
	}
	if got := names(t, s.parent); !slices.Equal(got, []string{"earlier"}) {
		t.Errorf("left %v", got)
	}
}
