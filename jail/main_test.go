package jail

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly/test/needs"
)

// unified is given where control groups are known to be those of version 2: a
// test that finds others, or too few, fails, where it would skip or do without.
var unified = flag.Bool("unified", false, "fail unless every controller is there, by version 2")

// TestMain lets the test binary play three parts: that of the tests, that of a
// jail's first process, and that of a hostile VMM (see probe_test.go).
func TestMain(m *testing.M) {
	Enter()
	if len(os.Args) > 1 && os.Args[1] == ownerMark {
		os.Exit(own(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == probeMark {
		os.Exit(probe(os.Args[2:]))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if left := groupsOf(testCgroup()); len(left) > 0 {
			fmt.Fprintln(os.Stderr, "the tests left control groups:", left)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// testCgroup begins the name of every pool's control groups.
func testCgroup() string { return "dayfly-test-" + strconv.Itoa(os.Getpid()) }

// groupsOf lists the control groups of pools whose names begin so.
func groupsOf(name string) []string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	own, _ := os.ReadFile("/proc/self/cgroup")
	var left []string
	for _, p := range hierarchies(string(mounts), string(own)) {
		found, _ := filepath.Glob(filepath.Join(p.dir, name+"*"))
		left = append(left, found...)
	}
	return left
}

// ranges gives every pool of this test binary users of its own.
var ranges atomic.Int64

const (
	testFirst = 700000
	testCount = 16
)

func testRange() Range {
	return Range{First: testFirst + int(ranges.Add(testCount)), Count: testCount}
}

// testOptions are those of a pool that meets no other one of the host.
func testOptions(t testing.TB) Options {
	t.Helper()
	return Options{Dir: filepath.Join(tempDir(t), "jail"), UIDs: testRange(), Cgroup: testCgroup(), Log: slog.New(slog.DiscardHandler)}
}

// tempDir is one whose parents others may pass through, as a program's must be.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "jail-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openPool(t testing.TB, o Options) *Pool {
	t.Helper()
	needs.Jail(t)
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if *unified {
		for _, c := range controllers {
			if place, ok := p.tree.places[c]; !ok || !place.v2 {
				t.Fatalf("the controller %s is not there by version 2: %+v, %v", c, place, p.tree.reasons[c])
			}
		}
	}
	return p
}

// self is this test binary as a program for a jail.
func self(t testing.TB) Shape {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Shape{Program: path}
}

func take(t testing.TB, p *Pool, s Spec) *Jail {
	t.Helper()
	j, err := p.Take(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// output is what a jailed command wrote, and how it ended.
func output(t testing.TB, j *Jail, c Command) (string, Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Stdout, c.Stderr = w, w
	proc, err := j.Start(t.Context(), c)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b)), proc.Exit()
}
