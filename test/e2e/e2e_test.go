// Package e2e holds Dayfly to its promises with real virtual machines, through
// the command line as users have it. Every test has a state directory of its
// own and ends by looking for what must not be left: processes, mounts, files.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
)

// binary is what make build made.
func binary(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/dayfly")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s: run make build", path)
	}
	return path
}

// newState returns a state directory with the kernel, the image base and the
// templates of a start without flags, which share their files with others, and
// sees to it at the end that nothing is left in it or alive because of it.
func newState(t *testing.T) string {
	t.Helper()
	needs.QEMU(t)
	from := started(t)
	dir := stateLike(t, from)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Cleanup(func() { assertNothingLeft(t, dir) })
	return dir
}

// firstStart is a state in which a workspace was started. Its templates take
// seconds to make, so the first test that needs them makes them for all.
var firstStart struct {
	once sync.Once
	dir  string // "": it failed
}

func started(t *testing.T) string {
	t.Helper()
	firstStart.once.Do(func() {
		dir := stateLike(t, needs.State(t))
		if r := dayfly(t, dir, "run", "base", "--", "true"); r.code != 0 {
			_ = os.RemoveAll(dir)
			t.Fatalf("the first start of all: %+v", r)
		}
		firstStart.dir = dir // TestMain removes it
	})
	if firstStart.dir == "" {
		t.Fatal("the first start of all failed")
	}
	return firstStart.dir
}

// stateLike returns a new state directory that shares its files with another, but
// for locks. It lies beside that one, as hard links cannot leave a file system.
func stateLike(t *testing.T, from string) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(from), "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	templates := filepath.Join(dir, "templates")
	if err := os.Mkdir(templates, 0o700); err != nil {
		t.Fatal(err)
	}
	link := map[string]string{}
	for _, sub := range []string{"images", "kernels", "kvm.json"} {
		link[filepath.Join(from, sub)] = dir
	}
	made, err := filepath.Glob(filepath.Join(from, "templates", "*", "template.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range made {
		link[filepath.Dir(info)] = templates
	}
	for src, to := range link {
		if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-al", src, to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	return dir
}

// assertNothingLeft looks for workspaces, snapshots, processes and mounts of a
// state directory.
func assertNothingLeft(t *testing.T, state string) {
	t.Helper()
	for _, sub := range []string{"workspaces", "locks", "snapshots"} {
		left, err := os.ReadDir(filepath.Join(state, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range left {
			t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
	for _, p := range processes(t, state) {
		t.Errorf("left running: %s", p)
	}
	noJailsLeft(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		if strings.Contains(line, state+"/") {
			t.Errorf("left mounted: %s", line)
		}
	}
}

// processes lists the VMMs whose command line names the state directory.
func processes(t *testing.T, state string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range dirs {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(state)) || !bytes.Contains(b, []byte("qemu")) {
			continue
		}
		found = append(found, strings.Split(path, "/")[2]+" "+strings.ReplaceAll(string(b), "\x00", " "))
	}
	return found
}

func pidOf(t *testing.T, process string) int {
	t.Helper()
	s, _, _ := strings.Cut(process, " ")
	pid, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// dayfly runs the binary to its end.
func dayfly(t *testing.T, state string, args ...string) result {
	t.Helper()
	return dayflyIn(t, state, nil, args...)
}

// dayflyIn is dayfly with a standard input.
func dayflyIn(t *testing.T, state string, in io.Reader, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	c := command(t, t.Context(), state, args...)
	c.Stdin, c.Stdout, c.Stderr = in, &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// command is a command line that, if it has not ended with its context, says
// where it was and ends.
func command(t *testing.T, ctx context.Context, state string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(ctx, binary(t), args...)
	c.Cancel, c.WaitDelay = func() error { return c.Process.Signal(unix.SIGABRT) }, 10*time.Second
	c.Env = append(os.Environ(), "DAYFLY_STATE="+state, "DAYFLY_SERVER=", "DAYFLY_HOST=", "XDG_CONFIG_HOME="+state) // no login of whoever runs the tests
	return c
}

// guest runs a shell command in a new workspace and returns what it printed;
// anything but success ends the test.
func guest(t *testing.T, state, script string, flags ...string) string {
	t.Helper()
	args := append([]string{"run"}, flags...)
	r := dayfly(t, state, append(args, "base", "--", "sh", "-c", script)...)
	if r.code != 0 {
		t.Fatalf("exit %d; stderr:\n%s\nstdout:\n%s", r.code, r.stderr, r.stdout)
	}
	return r.stdout
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %q, %v", pattern, paths, err)
	}
	return paths
}
