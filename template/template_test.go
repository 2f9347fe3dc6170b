package template_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/template"
)

var errBuild = errors.New("no machine today")

func key(kernel string) template.Key {
	return template.Key{VMM: "fake", VMMVersion: "1", Accel: dayfly.TCG, Kernel: kernel, CPUs: 1, MemoryMiB: 1}
}

func imageKey(kernel string) template.Key {
	k := key(kernel)
	k.Image, k.DiskMiB = "sha256:0", 64
	return k
}

func open(t *testing.T, dir string, l template.Limits) *template.Store {
	t.Helper()
	s, err := template.Open(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// build writes a page and returns parts that name it.
func build(name string) template.Builder {
	return func(_ context.Context, memory *os.File) (template.Parts, error) {
		_, err := memory.WriteAt([]byte(name), 8192)
		return template.Parts{State: []byte("state of " + name), Disk: []byte("disk of " + name)}, err
	}
}

func mustMake(t *testing.T, s *template.Store, k template.Key) {
	t.Helper()
	made, err := s.Make(t.Context(), k, build(k.Kernel))
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTemplateHoldsWhatWasBuilt(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), template.Limits{})
	for _, k := range []template.Key{key("a"), imageKey("a")} {
		if _, err := s.Get(k); dayfly.KindOf(err) != dayfly.NotFound || s.Has(k) {
			t.Errorf("Get before = %v", err)
		}
		mustMake(t, s, k)
		got, err := s.Get(k)
		if err != nil || !s.Has(k) {
			t.Fatal(err)
		}
		page := make([]byte, 1)
		if _, err := got.Memory.ReadAt(page, 8192); err != nil || string(page) != "a" {
			t.Errorf("memory holds %q, %v", page, err)
		}
		if string(got.State) != "state of a" || (k.Image != "") != bytes.Equal(got.Disk, []byte("disk of a")) {
			t.Errorf("parts are %q and %q", got.State, got.Disk)
		}
		if err := s.Prune(); err != nil { // while it is open
			t.Fatal(err)
		}
		if _, err := got.Memory.ReadAt(page, 8192); err != nil {
			t.Errorf("a removed template cannot be read: %v", err)
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
	}
	if count, bytes, err := s.Usage(); count != 0 || bytes != 0 || err != nil {
		t.Errorf("Usage = %d, %d, %v", count, bytes, err)
	}
}

func TestManyWhoAskAtOnceGetOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 10 {
		s := open(t, dir, template.Limits{}) // as from another process
		wg.Go(func() {
			got, err := s.Make(context.Background(), key("a"), func(ctx context.Context, memory *os.File) (template.Parts, error) {
				built.Add(1)
				return build("a")(ctx, memory)
			})
			if err := errors.Join(err, got.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if built.Load() != 1 {
		t.Errorf("built %d times", built.Load())
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, template.Limits{})
	_, err := s.Make(t.Context(), key("a"), func(context.Context, *os.File) (template.Parts, error) { return template.Parts{}, errBuild })
	if !errors.Is(err, errBuild) {
		t.Fatalf("Make = %v", err)
	}
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ents {
		if e.Name() != "locks" && e.Name() != "wanted" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	mustMake(t, s, key("a"))
}

func TestEveryFieldOfAKeyCounts(t *testing.T) {
	t.Parallel()
	base := template.Key{}.ID()
	for i := range reflect.TypeFor[template.Key]().NumField() {
		var k template.Key
		switch f := reflect.ValueOf(&k).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int:
			f.SetInt(7)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		default:
			t.Fatalf("no test for a %s", f.Kind())
		}
		if k.ID() == base {
			t.Errorf("%s does not change the id", reflect.TypeFor[template.Key]().Field(i).Name)
		}
	}
}

func TestDamagedTemplatesAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, template.Limits{})
	mustMake(t, s, key("whole"))
	for _, name := range []string{"memory", "state", "disk", "template.json"} {
		k := imageKey("damaged")
		mustMake(t, s, k)
		path := filepath.Join(dir, k.ID(), name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := len(b) / 2
		if name == "template.json" {
			at = bytes.LastIndex(b, []byte("sha256:")) + 10 // elsewhere a change may mean nothing
		}
		b[at] ^= 1
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
		removed, err := s.Verify(t.Context())
		if err != nil || removed != 1 || s.Has(k) || !s.Has(key("whole")) {
			t.Errorf("with a damaged %s Verify = %d, %v", name, removed, err)
		}
		if err := s.Drop(func(k template.Key) bool { return k.Image != "" }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOldestUseGoesFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, template.Limits{Count: 2})
	for i, name := range []string{"a", "b"} {
		mustMake(t, s, key(name))
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, key(name).ID()), at, at); err != nil {
			t.Fatal(err)
		}
	}
	mustMake(t, s, key("c"))
	if s.Has(key("a")) || !s.Has(key("b")) || !s.Has(key("c")) {
		t.Error("the wrong one was removed")
	}
}

func TestLeftoversOfDeadMakersAreSwept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, template.Limits{})
	dead, alive, gone := filepath.Join(dir, ".new-dead"), filepath.Join(dir, ".new-alive"), filepath.Join(dir, ".gone-x")
	for _, d := range []string{dead, alive, gone} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.Create(filepath.Join(dir, "locks", "alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	open(t, dir, template.Limits{})
	for path, want := range map[string]bool{dead: false, alive: true, gone: false} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestWaitForAnothersTemplateCanBeCancelled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, template.Limits{})
	lock, err := os.Create(filepath.Join(dir, "locks", key("a").ID()))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Make(ctx, key("a"), build("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Make = %v", err)
	}
}

func TestWantedIsSaidOnce(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), template.Limits{})
	for i, want := range []bool{false, true, true} {
		if got := s.Wanted(key("a")); got != want {
			t.Errorf("call %d: %v", i, got)
		}
	}
	if s.Wanted(key("b")) {
		t.Error("one counts for another")
	}
}
