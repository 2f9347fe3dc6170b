package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

func say(words ...string) Command {
	return Command{Args: append([]string{"x", probeMark, "say"}, words...)}
}

func TestJailIsUsedOnceAndLeavesNothing(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p := openPool(t, o)
	j := take(t, p, Spec{Shape: self(t)})
	if out, exit := output(t, j, say("hello", "there")); out != "hello there" || exit.Err() != nil {
		t.Errorf("it said %q and ended with %v", out, exit.Err())
	}
	if _, err := j.Start(t.Context(), say()); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("a second Start = %v", err)
	}
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Error(err)
	}
	if _, err := j.Start(t.Context(), say()); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Start of a closed one = %v", err)
	}
	if left := groupsLeft(t, p); len(left) != 0 {
		t.Errorf("control groups %v are left", left)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != idsFile {
		t.Errorf("in the directory are %v: %v", entries, err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(b), o.Dir) {
		t.Errorf("a mount is left: %v", err)
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	j := take(t, p, Spec{Shape: self(t)})
	proc, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-proc.Done():
	default:
		t.Error("it runs on")
	}
}

func TestPreparedJailsAreTakenAndReplaced(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	p.Prepare(self(t), 2)
	await(t, "two jails to wait", func() bool { return p.Waiting() == 2 })
	p.mu.Lock()
	first := p.ready[0]
	p.mu.Unlock()
	if j := take(t, p, Spec{Shape: self(t)}); j != first {
		t.Error("Take made a jail though one waited")
	}
	await(t, "another jail to wait", func() bool { return p.Waiting() == 2 })
}

func TestJailThatDiedWaitingIsNotGivenOut(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	p.Prepare(self(t), 1)
	await(t, "a jail to wait", func() bool { return p.Waiting() == 1 })
	p.mu.Lock()
	dead := p.ready[0]
	p.mu.Unlock()
	dead.proc.Kill()
	j := take(t, p, Spec{Shape: self(t)})
	if out, _ := output(t, j, say("alive")); out != "alive" {
		t.Errorf("it said %q", out)
	}
}

// await polls for what happens in another process.
func await(t *testing.T, what string, yes func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !yes() {
		if !wait(ctx, 5*time.Millisecond) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestUsersRunOut(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.UIDs.Count = 2
	p := openPool(t, o)
	a := take(t, p, Spec{Shape: self(t)})
	b := take(t, p, Spec{Shape: self(t)})
	if a.UID() == b.UID() {
		t.Errorf("two jails have user %d", a.UID())
	}
	_, err := p.Take(t.Context(), Spec{Shape: self(t)})
	if dayfly.KindOf(err) != dayfly.Exhausted || !strings.Contains(err.Error(), fmt.Sprintf("%d to %d", o.UIDs.First, o.UIDs.First+1)) {
		t.Errorf("a third Take = %v: it names no range", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if c := take(t, p, Spec{Shape: self(t)}); c.UID() != a.UID() {
		t.Errorf("the user that was given back is %d, and %d was given out", a.UID(), c.UID())
	}
}

func TestDirectoryOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	needs.Jail(t)
	for name, prepare := range map[string]func(dir string) error{
		"made by another user": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 12345, 12345)) },
		"others may write":     func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)) },
		"a symbolic link":      func(dir string) error { return os.Symlink(t.TempDir(), dir) },
		"users a symbolic link": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink("/etc/passwd", filepath.Join(dir, idsFile)))
		},
		"users a hard link": func(dir string) error {
			other := dir + "-other"
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(other, nil, 0o600), os.Link(other, filepath.Join(dir, idsFile)))
		},
		"users of another": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, idsFile), nil, 0o600), os.Chown(filepath.Join(dir, idsFile), 12345, 0))
		},
	} {
		o := testOptions(t)
		if err := prepare(o.Dir); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(o); dayfly.KindOf(err) != dayfly.Denied {
			t.Errorf("%s: Open = %v", name, err)
			if p != nil {
				_ = p.Close()
			}
		}
	}
}

func TestFileInJailIsThereAndOthersAreNot(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	dir := tempDir(t)
	if err := os.Chmod(dir, 0o700); err != nil { // its path is none of the jail's business
		t.Fatal(err)
	}
	mine, ro := filepath.Join(dir, "mine"), filepath.Join(dir, "ro")
	for path, mode := range map[string]os.FileMode{mine: 0o600, ro: 0o444} {
		if err := os.WriteFile(path, []byte("of the host"), mode); err != nil {
			t.Fatal(err)
		}
	}
	files := []File{{Path: mine, Write: true, Own: true}, {Path: ro}}
	for _, c := range []struct{ part, path, want string }{
		{"read", mine, "of the host <nil>"},
		{"read", ro, "of the host <nil>"},
		{"write", ro, "open " + ro + ": read-only file system"},
		{"write", mine, "<nil>"},
	} {
		j := take(t, p, Spec{Shape: self(t), Files: files})
		if out, _ := output(t, j, Command{Args: []string{"x", probeMark, c.part, c.path}}); out != c.want {
			t.Errorf("%s %s: %q, not %q", c.part, c.path, out, c.want)
		}
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "by the jail" {
		t.Errorf("the host has %q: %v", b, err)
	}
}

func TestFileStaysRootsWhileAJailHasIt(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	for name, users := range map[string]bool{"mapped": true, "given": false} {
		path := filepath.Join(tempDir(t), name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		j := take(t, p, Spec{Shape: self(t), Files: []File{{Path: path, Write: true, Own: true}}})
		if j.users == nil {
			t.Fatal("users cannot be mapped here")
		}
		if !users { // as on a host that cannot map
			_ = j.users.Close()
			j.users = nil
		}
		proc, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}})
		if err != nil {
			t.Fatal(err)
		}
		owner := func() int {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			return int(st.Uid)
		}
		if got := owner(); users && got != 0 || !users && got != j.UID() {
			t.Errorf("%s: while the jail has it, it is %d's", name, got)
		}
		if err := j.Close(); err != nil || owner() != 0 {
			t.Errorf("%s: afterwards it is %d's: %v", name, owner(), err)
		}
		<-proc.Done()
	}
	shared := filepath.Join(tempDir(t), "shared")
	if err := errors.Join(os.WriteFile(shared, nil, 0o600), os.Link(shared, shared+"-too")); err != nil {
		t.Fatal(err)
	}
	j := take(t, p, Spec{Shape: self(t), Files: []File{{Path: shared, Write: true, Own: true}}})
	_ = j.users.Close()
	j.users = nil
	if _, err := j.Start(t.Context(), say()); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Errorf("a file that others may have is given away: %v", err)
	}
}

func TestLentFileIsOpenedAgainByItsDescriptor(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	path := filepath.Join(tempDir(t), "memory")
	if err := os.WriteFile(path, []byte("lent"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := Command{Args: []string{"x", probeMark, "read", "/proc/self/fd/3"}}
	for _, c := range []struct {
		lend bool
		want string
	}{{false, " open /proc/self/fd/3: permission denied"}, {true, "lent <nil>"}} {
		j := take(t, p, Spec{Shape: self(t)})
		read.Files = []*os.File{f}
		if c.lend {
			lent, err := j.Lend(f)
			if err != nil {
				t.Fatal(err)
			}
			defer lent.Close()
			read.Files[0] = lent
		}
		if out, _ := output(t, j, read); out != strings.TrimSpace(c.want) {
			t.Errorf("lent: %v: it said %q, not %q", c.lend, out, c.want)
		}
	}
}

func TestWhatAProgramLacksIsNamed(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	dir := tempDir(t)
	locked, link := filepath.Join(dir, "locked"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(locked, nil, 0o600), os.Symlink("/etc/shadow", link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file File
		kind dayfly.Kind
	}{
		{File{Path: locked}, dayfly.Unavailable},
		{File{Path: filepath.Join(dir, "gone")}, dayfly.Unavailable},
		{File{Path: link, Own: true}, dayfly.Denied},
	} {
		j := take(t, p, Spec{Shape: self(t), Files: []File{c.file}})
		if _, err := j.Start(t.Context(), say()); dayfly.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.file.Path) {
			t.Errorf("%s: Start = %v", c.file.Path, err)
		}
	}
	if _, err := p.Take(t.Context(), Spec{Shape: Shape{Program: filepath.Join(dir, "gone")}}); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Errorf("Take of a program that is not there = %v", err)
	}
	if _, err := p.Take(t.Context(), Spec{Shape: Shape{Program: "/etc/passwd"}}); dayfly.KindOf(err) != dayfly.Invalid {
		t.Errorf("Take of what is no program = %v", err)
	}
	for _, path := range []string{"relative", "/", "/a/../b", "/proc/self/mem", "/dev/mem"} {
		if _, err := p.Take(t.Context(), Spec{Shape: self(t), Files: []File{{Path: path}}}); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("Take with the file %q = %v", path, err)
		}
	}
}

func TestFilesThatLieInEachOtherAreRefused(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	for _, files := range [][]File{
		{{Path: "/a", Write: true}, {Path: "/a/disk"}},
		{{Path: "/a/disk"}, {Path: "/a", Write: true}},
		{{Path: "/a"}, {Path: "/a"}},
	} {
		if _, err := p.Take(t.Context(), Spec{Shape: self(t), Files: files}); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("Take with %v = %v", files, err)
		}
	}
}

func TestDirectoryDescriptorIsRefused(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	j := take(t, p, Spec{Shape: self(t)})
	f, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := say()
	c.Files = []*os.File{f}
	if _, err := j.Start(t.Context(), c); dayfly.KindOf(err) != dayfly.Invalid {
		t.Errorf("Start = %v", err)
	}
}

func TestKVMIsThereOnlyWhereItWasAskedFor(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	shape := self(t)
	shape.KVM = true
	j, err := p.Take(t.Context(), Spec{Shape: shape})
	if _, lacks := os.Stat("/dev/kvm"); lacks != nil {
		if dayfly.KindOf(err) != dayfly.Unavailable {
			t.Errorf("Take of what this host has not = %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if out, _ := output(t, j, Command{Args: []string{"x", probeMark, "open", "/dev/kvm"}}); out != "<nil>" {
		t.Errorf("opening /dev/kvm: %s", out)
	}
}

func TestCallOfAnotherArchitectureIsFatal(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	j := take(t, p, Spec{Shape: self(t)})
	_, exit := output(t, j, Command{Args: []string{"x", probeMark, "call", strconv.Itoa(foreignNumbers | unix.SYS_GETPID)}})
	if err := exit.Err(); err == nil || !strings.Contains(err.Error(), "forbidden system call") {
		t.Errorf("it ended with %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Take(ctx, Spec{Shape: self(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Take = %v", err)
	}
	j := take(t, p, Spec{Shape: self(t)})
	if _, err := j.Start(ctx, say()); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
}

func TestMachineThatNeedsTooMuchMemoryIsKilledAlone(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	needs.Controller(t, "memory", p.Lacks())
	other := take(t, p, Spec{Shape: self(t)})
	bystander, err := other.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}})
	if err != nil {
		t.Fatal(err)
	}
	j := take(t, p, Spec{Shape: self(t), Limits: Limits{Memory: 64 << 20}})
	out, exit := output(t, j, Command{Args: []string{"x", probeMark, "memory"}, Env: []string{"GOGC=off"}})
	if exit.State.Success() || strings.HasSuffix(out, strconv.Itoa(64*8)) {
		t.Errorf("it had what it wanted: %v, %q", exit.State, out)
	}
	if !j.OutOfMemory() {
		t.Error("nobody would know what it died of")
	}
	if zombie(bystander.PID()) {
		t.Error("another machine was killed with it")
	}
}

func TestQuarterOfACPUIsAQuarter(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	needs.Controller(t, "cpu", p.Lacks())
	const share, long = 0.25, 2 * time.Second
	j := take(t, p, Spec{Shape: self(t)})
	if err := j.Limit(Limits{CPUs: share}); err != nil {
		t.Fatal(err)
	}
	out, _ := output(t, j, Command{Args: []string{"x", probeMark, "spin", long.String()}})
	had, err := strconv.ParseFloat(out, 64)
	// A host under load gives less, never more. In a guest, though, time that the
	// host took counts as used, and is only then made up for.
	if err != nil || had > share+.05 {
		t.Errorf("it had %s of a CPU: %v", out, err)
	}
	if groupCount(t, j, "cpu", "cpu.stat", "nr_throttled") == 0 {
		t.Error("it was never held back")
	}
	t.Logf("%.3f of a CPU", had)
}

func TestWritesAreAsSlowAsTheirLimit(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	needs.Controller(t, "io", p.Lacks())
	dir := tempDir(t)
	if _, err := disk(dir); err != nil {
		t.Skip(needs.Prefix + "disk: " + err.Error() + ": have /tmp on a disk")
	}
	ways := []string{"direct"}
	if p.tree.places["io"].v2 { // version 1 does not know whose the pages are
		ways = append(ways, "buffered")
	}
	const size, rate = 4, 8 // MiB, MiB/s
	for _, way := range ways {
		j := take(t, p, Spec{
			Shape:  self(t),
			Files:  []File{{Path: dir, Write: true, Own: true}},
			Limits: Limits{IO: []IO{{Path: dir, WriteBytes: rate << 20}}},
		})
		out, exit := output(t, j, Command{Args: []string{"x", probeMark, way, filepath.Join(dir, way), strconv.Itoa(size)}})
		took, err := time.ParseDuration(out)
		// The kernel lets the first of a second's share through at once, in part.
		if least := time.Second * size / rate / 2; err != nil || took < least {
			t.Errorf("%s: %d MiB at %d MiB/s took %s, less than %v: %v %v", way, size, rate, out, least, err, exit.Err())
		}
		t.Logf("%s: %.1f MiB/s", way, size/took.Seconds())
	}
}

func TestTrafficIsWhatCanBeBounded(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	needs.Controller(t, "io", p.Lacks())
	if got := p.Traffic("/proc"); got != NoTraffic {
		t.Errorf("traffic with /proc is %d", got)
	}
	if got := None(nil).Traffic("/"); got != NoTraffic {
		t.Errorf("traffic of those in no jail is %d", got)
	}
	dir := tempDir(t)
	if _, err := disk(dir); err != nil {
		t.Skip(needs.Prefix + "disk: " + err.Error() + ": have /tmp on a disk")
	}
	got := p.Traffic(dir)
	if v2 := p.tree.places["io"].v2; got == NoTraffic || got == AllTraffic && !v2 {
		t.Errorf("traffic with a disk is %d, with version 2 %v", got, v2)
	}
}

func TestThreadsAreBounded(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	wantsThreads(t, take(t, p, Spec{Shape: self(t), Limits: Limits{Processes: 24}}))
}

// TestThreadsAreBoundedByTheirGroup: where the user's own limit would let them be.
func TestThreadsAreBoundedByTheirGroup(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	needs.Controller(t, "pids", p.Lacks())
	j := take(t, p, Spec{Shape: self(t)})
	if err := j.Limit(Limits{Processes: 24}); err != nil {
		t.Fatal(err)
	}
	wantsThreads(t, j)
	if groupCount(t, j, "pids", "pids.events", "max") == 0 {
		t.Error("its group refused nothing")
	}
}

func wantsThreads(t *testing.T, j *Jail) {
	t.Helper()
	out, exit := output(t, j, Command{Args: []string{"x", probeMark, "threads"}, Env: []string{"GOTRACEBACK=none"}})
	if exit.State.Success() || strings.Contains(out, "ESCAPED") {
		t.Errorf("it ended with %v and said %q", exit.State, out)
	}
}

// groupCount is a number that a jail's control group keeps.
func groupCount(t *testing.T, j *Jail, controller, file, name string) (n int) {
	t.Helper()
	dir, _ := j.group.dir(controller)
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if count, ok := strings.CutPrefix(line, name+" "); ok {
			if n, err = strconv.Atoi(strings.TrimSpace(count)); err == nil {
				return n
			}
		}
	}
	t.Fatalf("no %s in %s: %q", name, file, b)
	return 0
}

func TestFileThatGrowsTooLargeIsAnErrorOfTheWrite(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	dir := tempDir(t)
	j := take(t, p, Spec{Shape: self(t), Files: []File{{Path: dir, Write: true, Own: true}}, Limits: Limits{FileSize: 4 << 20}})
	out, exit := output(t, j, Command{Args: []string{"x", probeMark, "fill", filepath.Join(dir, "file")}})
	if !strings.HasPrefix(out, "stopped after 4 ") || !exit.State.Success() {
		t.Errorf("it ended with %v and said %q", exit.State, out)
	}
}

func TestControlGroupThatWasRemovedIsNamed(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	needs.Controller(t, "pids", p.Lacks())
	p.Prepare(self(t), 1)
	await(t, "a jail to wait", func() bool { return p.Waiting() == 1 })
	p.mu.Lock()
	j := p.ready[0]
	p.mu.Unlock()
	dir, _ := j.group.dir("pids")
	// Somebody moves its process elsewhere and removes the group.
	elsewhere := filepath.Dir(filepath.Dir(dir)) // of version 2 only the top has processes beside groups
	if err := os.WriteFile(filepath.Join(elsewhere, "cgroup.procs"), []byte(strconv.Itoa(j.proc.PID())), 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, "the group to be empty", func() bool { return unix.Rmdir(dir) == nil })
	if err := j.group.limit(Limits{Processes: 5}); dayfly.KindOf(err) != dayfly.Unavailable || !strings.Contains(err.Error(), dir) {
		t.Errorf("limits of a group that is gone: %v", err)
	}
	if j.good() {
		t.Error("a jail without its control group passes for good")
	}
	if k := take(t, p, Spec{Shape: self(t)}); k == j {
		t.Error("it was given out")
	}
}

func TestWithoutJailsProgramsRunAsTheyAre(t *testing.T) {
	t.Parallel()
	p := None(nil)
	j := take(t, p, Spec{Shape: self(t)})
	if out, exit := output(t, j, say("bare")); out != "bare" || exit.Err() != nil {
		t.Errorf("it said %q: %v", out, exit.Err())
	}
	if len(p.Lacks()) != len(controllers) {
		t.Error("it claims limits")
	}
}

func TestCheckSetsAJailUp(t *testing.T) {
	t.Parallel()
	needs.Jail(t)
	for _, c := range Check(t.Context(), ownOptions(t)) {
		if c.Name == "jail" && c.Status != dayfly.Good {
			t.Errorf("%+v", c)
		}
		if c.Status != dayfly.Good && c.Remedy == "" {
			t.Errorf("%s says nothing of what to do: %+v", c.Name, c)
		}
	}
}
