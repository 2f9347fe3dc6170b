package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/test/needs"
)

func stat(t *testing.T, r *rig, path string) *wire.EntryInfo {
	t.Helper()
	var resp wire.EntryResponse
	if err := r.cli.Unary(t.Context(), wire.FilesystemStat, wire.PathRequest{Path: path}, &resp); err != nil {
		t.Fatal(err)
	}
	return resp.Entry
}

func code(t *testing.T, r *rig, procedure string, req any) wire.Code {
	t.Helper()
	return wire.CodeOf(r.cli.Unary(t.Context(), procedure, req, nil))
}

func TestEntriesSayWhatLinksLeadTo(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	file := writeFile(t, dir+"/f", "12345", 0o640)
	for link, target := range map[string]string{"tofile": "f", "todir": dir, "tonothing": "none", "loop": "loop", "far": "tofile"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if e := stat(t, r, file); e.Type != wire.FileRegular || e.Size != 5 || e.Mode != 0o640 || e.Permissions != "-rw-r-----" || e.IsSymlink || e.SymlinkTarget != nil {
		t.Errorf("file: %+v", e)
	}
	for link, want := range map[string]struct {
		kind   wire.FileType
		target string
	}{
		"tofile":    {wire.FileRegular, file},
		"far":       {wire.FileRegular, file},
		"todir":     {wire.FileDirectory, dir},
		"tonothing": {wire.FileSymlink, "none"},
		"loop":      {wire.FileSymlink, "loop"},
	} {
		e := stat(t, r, dir+"/"+link)
		if e.Type != want.kind || !e.IsSymlink || e.SymlinkTarget == nil || *e.SymlinkTarget != want.target || e.Path != dir+"/"+link || !strings.HasPrefix(e.Permissions, "L") {
			t.Errorf("%s: %+v -> %s", link, e, *e.SymlinkTarget)
		}
	}
	for _, year := range []int64{-70_000_000_000, 300_000_000_000} {
		ts := []unix.Timespec{{Sec: year}, {Sec: year}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, file, ts, 0); err != nil {
			t.Fatal(err)
		}
		stat(t, r, file) // an answer, whatever year it is
	}
}

func TestFilesystemRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	file := writeFile(t, dir+"/f", "x", 0o644)
	for _, c := range []struct {
		procedure string
		req       any
		want      wire.Code
	}{
		{wire.FilesystemStat, wire.PathRequest{Path: dir + "/none"}, wire.NotFound},
		{wire.FilesystemStat, wire.PathRequest{Path: file + "/below"}, wire.NotFound},
		{wire.FilesystemMakeDir, wire.PathRequest{Path: dir}, wire.AlreadyExists},
		{wire.FilesystemMakeDir, wire.PathRequest{Path: file}, wire.InvalidArgument},
		{wire.FilesystemMakeDir, wire.PathRequest{Path: file + "/below"}, wire.InvalidArgument},
		{wire.FilesystemRemove, wire.PathRequest{Path: "/"}, wire.InvalidArgument},
		{wire.FilesystemRemove, wire.PathRequest{Path: "/x/../.."}, wire.InvalidArgument},
		{wire.FilesystemRemove, wire.PathRequest{Path: dir + "/none"}, ""},
		{wire.FilesystemRemove, wire.PathRequest{Path: file + "/below"}, ""},
		{wire.FilesystemListDir, wire.ListDirRequest{Path: file}, wire.InvalidArgument},
		{wire.FilesystemListDir, wire.ListDirRequest{Path: dir + "/none"}, wire.NotFound},
		{wire.FilesystemMove, wire.MoveRequest{Source: dir + "/none", Destination: dir + "/x"}, wire.NotFound},
		{wire.FilesystemMove, wire.MoveRequest{Source: dir, Destination: dir + "/below"}, wire.InvalidArgument},
		{wire.FilesystemCreateWatcher, wire.WatchRequest{Path: file}, wire.InvalidArgument},
		{wire.FilesystemCreateWatcher, wire.WatchRequest{Path: dir + "/none"}, wire.NotFound},
		{wire.FilesystemGetWatcherEvents, wire.WatcherID{ID: "none"}, wire.NotFound},
		{wire.FilesystemRemoveWatcher, wire.WatcherID{}, wire.NotFound},
	} {
		if got := code(t, r, c.procedure, c.req); got != c.want {
			t.Errorf("%s %+v: got %q, want %q", c.procedure, c.req, got, c.want)
		}
	}
	if !exists(file) {
		t.Error("a refused request removed a file")
	}
}

func TestPathsStartAtTheDefaultDirectoryOrHome(t *testing.T) {
	t.Parallel()
	user := account{home: "/home/u"}
	for _, c := range []struct{ workdir, path, want string }{
		{"", "", "/home/u"},
		{"", "a/b", "/home/u/a/b"},
		{"/work", "a", "/work/a"},
		{"~/w", "a", "/home/u/w/a"},
		{"/work", "~", "/home/u"},
		{"/work", "~/a", "/home/u/a"},
		{"/work", "/a//b/../c", "/a/c"},
		{"/work", "../../..", "/"},
		{"relative", "a", "/relative/a"},
	} {
		got, err := (&state{workdir: c.workdir}).resolve(user, c.path)
		if err != nil || got != c.want {
			t.Errorf("%q in %q: got %q, %v, want %q", c.path, c.workdir, got, err, c.want)
		}
	}
}

func TestMoveAcrossFileSystemsKeepsEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	other := smallDisk(t)
	needs.Root(t)
	dir := t.TempDir() + "/tree"
	script := "mkdir -p d/e && echo x > d/f && chown 1:2 d/f && chmod 4751 d/f && ln -s f d/l && mkfifo d/p && touch -d 2001-02-03 d/f d/e && chmod 700 d/e"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	req := sh("cd " + dir + " && " + script)
	if got := run(t, r.cli, req); got.end.ExitCode != 0 {
		t.Fatalf("%+v", got)
	}
	const show = "find . | sort | xargs stat -c '%n %A %u %g %Y %N'"
	show2 := func(dir string) string {
		got := run(t, r.cli, sh("cd "+dir+" && "+show))
		return got.stdout + got.stderr
	}
	want := show2(dir + "/d")
	if err := r.cli.Unary(t.Context(), wire.FilesystemMove, wire.MoveRequest{Source: dir + "/d", Destination: other + "/new/d"}, nil); err != nil {
		t.Fatal(err)
	}
	if got := show2(other + "/new/d"); got != want || !strings.Contains(got, "rwsr-x--x 1 2") {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if exists(dir + "/d") {
		t.Error("the source is still there")
	}
	big := writeFile(t, dir+"/big", strings.Repeat("x", 2<<20), 0o644)
	if got := code(t, r, wire.FilesystemMove, wire.MoveRequest{Source: big, Destination: other + "/big"}); got != wire.ResourceExhausted {
		t.Errorf("to a full disk: %q", got)
	}
	if entries, _ := os.ReadDir(other); len(entries) != 1 || !exists(big) {
		t.Errorf("left %v, source there: %v", entries, exists(big))
	}
}

func TestWatchStreamBeginsWithStartAndSeesIntoNewDirectories(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := r.cli.ServerStream(ctx, wire.FilesystemWatchDir, wire.WatchRequest{Path: dir, Recursive: true, IncludeEntry: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ev wire.WatchEvent
	if err := s.Receive(&ev); err != nil || ev.Start == nil {
		t.Fatalf("first: %+v, %v", ev, err)
	}
	writeFile(t, dir+"/a/b/c/f", "x", 0o644)
	created := map[string]int{}
	for created["a/b/c/f"] == 0 {
		var ev wire.WatchEvent
		if err := s.Receive(&ev); err != nil {
			t.Fatal(err)
		}
		if f := ev.Filesystem; f != nil && f.Type == wire.EventCreate {
			created[f.Name]++
			if f.Entry == nil || f.Entry.Path != filepath.Join(dir, f.Name) {
				t.Errorf("%s: entry %+v", f.Name, f.Entry)
			}
		}
	}
	if err := os.Rename(dir+"/a", dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/moved/b/c/g", "x", 0o644)
	for created["moved/b/c/g"] == 0 {
		var ev wire.WatchEvent
		if err := s.Receive(&ev); err != nil {
			t.Fatal(err)
		}
		if f := ev.Filesystem; f != nil && f.Type == wire.EventCreate {
			created[f.Name]++
		}
	}
	for _, name := range []string{"a", "a/b", "a/b/c", "moved"} {
		if created[name] != 1 {
			t.Errorf("%s was created %d times", name, created[name])
		}
	}
}

func TestForgottenWatchersMakeRoom(t *testing.T) {
	t.Parallel()
	// One inotify instance stands in for all: the kernel gives a user only 128.
	notify, err := newInotify()
	if err != nil {
		t.Fatal(err)
	}
	var table watcherTable
	var tasks sync.WaitGroup
	defer notify.close()
	defer table.close()
	add := func(polled time.Time) error {
		_, err := table.add(&watcher{watch: &watch{in: notify}, polled: polled}, &tasks)
		if err == nil {
			tasks.Done()
		}
		return err
	}
	for range maxWatchers - 1 {
		if err := add(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(time.Now().Add(-2 * watcherUnused)); err != nil {
		t.Fatal(err)
	}
	if err := add(time.Now()); err != nil {
		t.Errorf("in place of a forgotten one: %v", err)
	}
	if err := add(time.Now()); wire.CodeOf(err) != wire.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
}

func TestLostEventsAreAdmittedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	var id wire.WatcherID
	if err := r.cli.Unary(t.Context(), wire.FilesystemCreateWatcher, wire.WatchRequest{Path: t.TempDir()}, &id); err != nil {
		t.Fatal(err)
	}
	r.watchers.mu.Lock()
	w := r.watchers.byID[id.ID]
	r.watchers.mu.Unlock()
	for range maxPending + 1 {
		w.keep(wire.FilesystemEvent{Name: "x", Type: wire.EventWrite})
	}
	if got := code(t, r, wire.FilesystemGetWatcherEvents, id); got != wire.DataLoss {
		t.Errorf("got %q", got)
	}
	if got := code(t, r, wire.FilesystemGetWatcherEvents, id); got != "" {
		t.Errorf("the second time: %q", got)
	}
	if got := code(t, r, wire.FilesystemRemoveWatcher, id); got != "" {
		t.Errorf("remove: %q", got)
	}
}

func TestCloseEndsWatchStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	s, err := r.cli.ServerStream(t.Context(), wire.FilesystemWatchDir, wire.WatchRequest{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ev wire.WatchEvent
	if err := s.Receive(&ev); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Receive(&ev); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("got %+v, %v", ev, err)
	}
}
