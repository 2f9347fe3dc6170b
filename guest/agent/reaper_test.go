package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// reaperChild marks a copy of the test binary that runs as if it were pid 1: a
// subreaper, whose Reaper collects every child and would take them from other
// tests.
const reaperChild = "DAYFLY_TEST_REAPER"

func TestReaper(t *testing.T) {
	if os.Getenv(reaperChild) == "" {
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReaper$", "-test.v")
		cmd.Env = append(os.Environ(), reaperChild+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Run("orphans are collected and owners get their exits", testReaperOrphans)
	t.Run("a fast exit is not missed", testReaperFastExits)
	t.Run("an ended child is not signalled", testReaperSignal)
	t.Run("closing twice", func(t *testing.T) {
		r := NewReaper()
		for range 2 {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func testReaperOrphans(t *testing.T) {
	reaper := NewReaper()
	defer reaper.Close()
	r := newRig(t, Config{Reaper: reaper})
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			// A daemon, as daemons are made: its parents end first.
			script := fmt.Sprintf("(setsid sh -c 'while ! test -e %s/go; do sleep 0.01; done; exit 3' >/dev/null 2>&1 &) ; exit %d", dir, i)
			s, err := r.cli.ServerStream(t.Context(), wire.ProcessStart, sh(script))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if got, err := finish(s, 0); err != nil || int(got.end.ExitCode) != i {
				t.Errorf("%d: got %+v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if n := len(childrenOfSelf(t)); n != 20 {
		t.Errorf("%d orphans were adopted, want 20", n)
	}
	writeFile(t, filepath.Join(dir, "go"), "", 0o644)
	eventually(t, "no child, dead or alive", func() bool { return len(childrenOfSelf(t)) == 0 })
}

func childrenOfSelf(t *testing.T) []string {
	t.Helper()
	files, _ := filepath.Glob("/proc/self/task/*/children")
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		out = append(out, strings.Fields(string(b))...)
	}
	return out
}

func forkTrue() (int, error) {
	return syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
}

func testReaperFastExits(t *testing.T) {
	reaper := NewReaper()
	defer reaper.Close()
	for range 300 {
		c, err := reaper.Start(forkTrue)
		if err != nil {
			t.Fatal(err)
		}
		if exit := c.Exit(); !exit.Status.Exited() || exit.Status.ExitStatus() != 0 || exit.Usage.Maxrss == 0 {
			t.Fatalf("got %+v", exit)
		}
	}
	if _, err := reaper.Start(func() (int, error) { return syscall.ForkExec("/nope", nil, nil) }); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v", err)
	}
}

func testReaperSignal(t *testing.T) {
	for _, reaper := range []*Reaper{NewReaper(), {}} {
		c, err := reaper.Start(forkTrue)
		if err != nil {
			t.Fatal(err)
		}
		<-c.Done()
		if err := c.SignalGroup(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("got %v", err)
		}
		if err := reaper.Close(); err != nil {
			t.Error(err)
		}
	}
}
