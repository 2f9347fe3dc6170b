package vmmtest

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm"
)

// A child is this test binary, started again with these arguments after "--"
// to launch a machine in the named directory, report its process id on a line
// of its own, and be killed.
const (
	childWord  = "vmmtest-child"
	orphanWord = "orphan"
	reportHead = "vmmtest-pid "
)

func isChild() bool { return flag.NArg() > 0 && flag.Arg(0) == childWord }

func child(t *testing.T, s Setup) {
	c := s.config(t)
	c.Dir, c.Orphan = flag.Arg(1), flag.Arg(2) == orphanWord
	m, err := s.Driver.Launch(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s%d\n", reportHead, m.PID())
	<-m.Done() // the parent kills us
	t.Fatalf("the machine ended: %+v", m.Exit())
}

// launchInChild returns the process of a machine that a process launched which
// has been killed since.
func launchInChild(t *testing.T, dir, word string) *watched {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	// The test's temporary directories outlive it, being killed: keep them in ours.
	temp := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$", "-test.v", "--", childWord, dir, word)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	var said strings.Builder
	for in := bufio.NewScanner(out); pid == 0 && in.Scan(); {
		said.WriteString(in.Text() + "\n")
		if n, ok := strings.CutPrefix(in.Text(), reportHead); ok {
			pid, _ = strconv.Atoi(n)
		}
	}
	var w *watched
	if pid > 0 {
		w = watch(t, pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if w == nil {
		t.Fatalf("the child launched nothing:\n%s", said.String())
	}
	return w
}

// watched is a process that is not our child.
type watched struct {
	t   *testing.T
	pid int
	fd  int
}

func watch(t *testing.T, pid int) *watched {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // gone already if all is well
		_ = unix.Close(fd)
	})
	return &watched{t, pid, fd}
}

// gone reports whether the process ends within the limit.
func (w *watched) gone(limit time.Duration) bool {
	w.t.Helper()
	for until := time.Now().Add(limit); ; {
		p := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(0, time.Until(until).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return n > 0
	}
}

func closedProcessIsGone(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	w := watch(t, m.PID())
	if w.gone(0) {
		t.Error("the process of a running machine is gone")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", m.PID())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close the process is there: %v", err)
	}
}

func parentsDeathKills(t *testing.T, s Setup) {
	dir := t.TempDir()
	if w := launchInChild(t, dir, "-"); !w.gone(deadline) {
		t.Error("the machine outlives its parent")
	}
	if s.Orphans != nil {
		if pids, err := s.Orphans(dir); err != nil || len(pids) > 0 {
			t.Errorf("Orphans = %v, %v; want none", pids, err)
		}
	}
	// What the killed owner left in the directory is not in the way.
	c := s.config(t)
	c.Dir = dir
	k := meet(t, s.launch(t, c))
	if got := k.must("echo again"); got != "again" {
		t.Errorf("echo says %q", got)
	}
}

func orphanOutlivesItsParent(t *testing.T, s Setup) {
	if s.Orphans == nil {
		return
	}
	dir := t.TempDir()
	w := launchInChild(t, dir, orphanWord)
	const grace = 300 * time.Millisecond // what kills with the parent kills at once
	if w.gone(grace) {
		t.Fatal("the orphan dies with its parent")
	}
	for name, at := range map[string]string{"its directory": dir, "a directory above": os.TempDir()} {
		if pids, err := s.Orphans(at); err != nil || !contains(pids, w.pid) {
			t.Errorf("Orphans of %s = %v, %v; want %d among them", name, pids, err, w.pid)
		}
	}
	if pids, err := s.Orphans(dir + "x"); err != nil || len(pids) > 0 {
		t.Errorf("Orphans of a directory beside it = %v, %v; want none", pids, err)
	}
	if err := s.KillOrphans(dir + "x"); err != nil || w.gone(0) {
		t.Fatalf("killing orphans elsewhere: %v", err)
	}
	if err := s.KillOrphans(dir); err != nil || !w.gone(0) {
		t.Errorf("KillOrphans: %v; it must be gone", err)
	}
	if err := s.KillOrphans(dir); err != nil {
		t.Errorf("KillOrphans with nothing to kill: %v", err)
	}
}

func contains(pids []int, pid int) bool {
	for _, p := range pids {
		if p == pid {
			return true
		}
	}
	return false
}

// commandLineHoldsNoEnvironment looks for what this process knows and a
// machine need not: its environment.
func commandLineHoldsNoEnvironment(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", m.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range strings.Split(string(env), "\x00") {
		if e != "" && !strings.HasPrefix(e, "LC_ALL=") {
			t.Errorf("the VMM has environment %q", e)
		}
	}
	for _, fd := range openFiles(t, m) {
		if strings.HasPrefix(fd, "/") && strings.HasSuffix(fd, ".test") {
			t.Errorf("the VMM has our file %s open", fd)
		}
	}
}

func openFiles(t *testing.T, m vmm.Machine) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", m.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			files = append(files, to)
		}
	}
	return files
}
