package blackout_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/blackout"
	"github.com/dayfly/dayfly/test/needs"
)

func TestMain(m *testing.M) {
	blackout.Enter()
	goleak.VerifyTestMain(m)
}

// mount returns an empty file system and where it is.
func mount(t *testing.T) (*blackout.FS, string) {
	t.Helper()
	needs.FUSE(t)
	dir := filepath.Join(t.TempDir(), "fs")
	check(t, os.Mkdir(dir, 0o700))
	return blackout.Start(t).Mount(t, dir), dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	check(t, os.WriteFile(path, []byte(text), 0o600))
}

func sync(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	check(t, errors.Join(f.Sync(), f.Close()))
}

// remains is what each aftermath leaves of a file system: "" where there is no
// file of that name.
func remains(t *testing.T, fs *blackout.FS, name string) map[blackout.Aftermath]string {
	t.Helper()
	all := map[blackout.Aftermath]string{}
	for _, a := range blackout.Aftermaths() {
		dir := t.TempDir()
		fs.Remains(dir, a)
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			all[a] = "it has " + string(b)
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	return all
}

func want(t *testing.T, got map[blackout.Aftermath]string, a blackout.Aftermath, text string) {
	t.Helper()
	if got[a] != text {
		t.Errorf("of %s: %q, want %q", a, got[a], text)
	}
}

func TestWhatWasNotSyncedMayBeLost(t *testing.T) {
	fs, dir := mount(t)
	path := filepath.Join(dir, "file")
	write(t, path, "one")
	got := remains(t, fs, "file")
	want(t, got, blackout.OnlySynced, "")
	want(t, got, blackout.ContentAlone, "")
	want(t, got, blackout.NamesAlone, "it has ")
	want(t, got, blackout.Everything, "it has one")

	sync(t, path)
	got = remains(t, fs, "file")
	want(t, got, blackout.OnlySynced, "")
	want(t, got, blackout.NamesAlone, "it has one")

	sync(t, dir)
	write(t, path, "another")
	got = remains(t, fs, "file")
	want(t, got, blackout.OnlySynced, "it has one")
	want(t, got, blackout.ContentAlone, "it has another")
}

func TestRenameInADirectoryIsWhole(t *testing.T) {
	fs, dir := mount(t)
	write(t, filepath.Join(dir, "old"), "1")
	sync(t, filepath.Join(dir, "old"))
	sync(t, dir)
	check(t, os.Rename(filepath.Join(dir, "old"), filepath.Join(dir, "new")))
	before, after := remains(t, fs, "old"), remains(t, fs, "new")
	for _, a := range blackout.Aftermaths() {
		if (before[a] == "") == (after[a] == "") {
			t.Errorf("of %s: the old name %q, the new one %q", a, before[a], after[a])
		}
	}
}

// TestItIsAFileSystem: what a program sees of one.
func TestItIsAFileSystem(t *testing.T) {
	fs, dir := mount(t)
	a, b, sub := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "sub")
	f, err := os.OpenFile(a, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(1<<30))
	_, err = f.WriteAt([]byte("data"), 1<<20+4094)
	check(t, err)
	for from, want := range map[int64]int64{0: 1 << 20, 1<<20 + 8000: 1<<20 + 8000} {
		if got, err := f.Seek(from, unix.SEEK_DATA); err != nil || got != want {
			t.Errorf("data behind %d is at %d, %v; want %d", from, got, err, want)
		}
	}
	if got, err := f.Seek(1<<20, unix.SEEK_HOLE); err != nil || got != 1<<20+8192 {
		t.Errorf("the hole is at %d, %v", got, err)
	}
	if _, err := f.Seek(1<<20+8192, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		t.Errorf("behind all data: %v", err)
	}
	check(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 4096))
	got := make([]byte, 4)
	if _, err := f.ReadAt(got, 1<<20+4094); err != nil || string(got) != "\x00\x00ta" {
		t.Errorf("beside the hole is %q, %v", got, err)
	}
	check(t, os.Link(a, b))
	if st, err := os.Stat(b); err != nil || st.Sys().(*syscall.Stat_t).Nlink != 2 || st.Size() != 1<<30 {
		t.Errorf("the link is %+v, %v", st, err)
	}
	if err := os.Link(a, b); !errors.Is(err, os.ErrExist) {
		t.Errorf("a link in the way: %v", err)
	}
	check(t, os.MkdirAll(filepath.Join(sub, "deep"), 0o700))
	if err := os.Remove(sub); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a directory with something in it: %v", err)
	}
	check(t, os.Symlink("deep", filepath.Join(sub, "link")))
	check(t, os.Rename(b, filepath.Join(sub, "link", "b")))
	if err := unix.Renameat2(-1, a, -1, filepath.Join(sub, "deep", "b"), unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a name in the way: %v", err)
	}
	check(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	again, err := os.Open(a)
	check(t, err)
	defer again.Close()
	if err := unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the second lock: %v", err)
	}
	to := t.TempDir()
	fs.Remains(to, blackout.Everything)
	x, err := os.Stat(filepath.Join(to, "a"))
	check(t, err)
	y, err := os.Stat(filepath.Join(to, "sub", "link", "b"))
	check(t, err)
	if !os.SameFile(x, y) || x.Size() != 1<<30 {
		t.Errorf("two links to a file of 1 GiB remain as %+v and %+v", x, y)
	}
	check(t, os.RemoveAll(sub))
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v", list, err)
	}
}

func TestLoadedIsDurable(t *testing.T) {
	from := t.TempDir()
	check(t, os.Mkdir(filepath.Join(from, "sub"), 0o700))
	write(t, filepath.Join(from, "sub", "file"), "content")
	check(t, os.Link(filepath.Join(from, "sub", "file"), filepath.Join(from, "link")))
	fs, dir := mount(t)
	fs.Load(from)
	if b, err := os.ReadFile(filepath.Join(dir, "link")); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	want(t, remains(t, fs, "sub/file"), blackout.OnlySynced, "it has content")
}

func TestOpsFailAsPlanned(t *testing.T) {
	fs, dir := mount(t)
	path := filepath.Join(dir, "file")
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	for _, c := range []struct {
		plan blackout.Plan
		want []error
	}{
		{blackout.Plan{}, []error{nil, nil, nil}},
		{blackout.Plan{At: 2, Err: syscall.EIO}, []error{nil, syscall.EIO, nil}},
		{blackout.Plan{At: 2, Err: syscall.ENOSPC, Going: true}, []error{nil, syscall.ENOSPC, syscall.ENOSPC}},
	} {
		fs.Arm(c.plan)
		for i, want := range c.want {
			if _, err := f.WriteAt([]byte("x"), int64(i)); !errors.Is(err, want) {
				t.Errorf("%+v: write %d: %v, want %v", c.plan, i+1, err, want)
			}
		}
		if ops, hit := fs.Count(); ops != len(c.want) || hit != (c.plan.At > 0) {
			t.Errorf("%+v: %d ops, hit %v", c.plan, ops, hit)
		}
	}
	fs.Arm(blackout.Plan{})
	if _, err := io.WriteString(f, "y"); err != nil {
		t.Error(err)
	}
}
