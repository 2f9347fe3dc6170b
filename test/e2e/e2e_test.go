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
	"testing"

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

// newState returns a state directory with the kernel and the image base, which
// share their files with the prepared one, and sees to it at the end that
// nothing is left in it or alive because of it.
func newState(t *testing.T) string {
	t.Helper()
	needs.QEMU(t)
	from := needs.State(t)
	// Beside the prepared one, as hard links cannot leave a file system.
	dir, err := os.MkdirTemp(filepath.Dir(from), "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, sub := range []string{"images", "kernels", "kvm.json"} {
		src := filepath.Join(from, sub)
		if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-al", src, dir).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	t.Cleanup(func() { assertNothingLeft(t, dir) })
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

func command(t *testing.T, ctx context.Context, state string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(ctx, binary(t), args...)
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
