package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
)

// An owner that is to be killed: this test binary, called with ownerMark, a
// directory, the first user and the name of a control group. It says which
// processes it has started, and waits.
const ownerMark = "owner"

func own(args []string) int {
	first, err := strconv.Atoi(args[1])
	if err != nil {
		return 2
	}
	p, err := Open(Options{Dir: args[0], UIDs: Range{first, testCount}, Cgroup: args[2]})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	shape := Shape{Program: must(os.Executable())}
	waiting, err := p.make(context.Background(), shape)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	pids := []any{waiting.proc.PID()}
	for _, orphan := range []bool{false, true} {
		j, err := p.Take(context.Background(), Spec{Shape: shape})
		var proc *Process
		if err == nil {
			proc, err = j.Start(context.Background(), Command{Args: []string{"x", probeMark, "hang"}, Orphan: orphan})
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		pids = append(pids, proc.PID())
	}
	fmt.Println(pids...)
	time.Sleep(time.Hour) //nolint:forbidigo // until it is killed
	return 0
}

// orphan makes an owner, kills it, and returns what it had: an orphan that
// still runs. All else of it must be dying.
func orphan(t *testing.T, o Options) (pid int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), must(os.Executable()), ownerMark, o.Dir, strconv.Itoa(o.UIDs.First), o.Cgroup)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var waiting, bound int
	_, err = fmt.Fscan(out, &waiting, &bound, &pid)
	var handles []int
	for _, p := range []int{waiting, bound} {
		fd, open := unix.PidfdOpen(p, 0)
		err = errors.Join(err, open)
		handles = append(handles, fd)
	}
	err = errors.Join(err, cmd.Process.Kill())
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range handles {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
			t.Errorf("a process of an owner that was killed lives on: %v", err)
		}
		unix.Close(fd)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	return pid
}

func groupsLeft(t *testing.T, p *Pool) (names []string) {
	t.Helper()
	for _, dir := range (&group{p.tree, ""}).dirs() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

// ownOptions are those of a pool whose control groups are no other test's.
func ownOptions(t *testing.T) Options {
	o := testOptions(t)
	o.Cgroup += "-" + strconv.Itoa(o.UIDs.First)
	return o
}

func TestOrphanIsAdoptedAndEnded(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p := openPool(t, o)
	pid := orphan(t, o)
	if err := p.Sweep(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	uid := strconv.Itoa(o.UIDs.First + 2)
	if left := groupsLeft(t, p); len(p.Lacks()) == 0 && !slices.Equal(left, []string{uid}) {
		t.Errorf("control groups %v are left, not the orphan's (%s)", left, uid)
	}
	j, err := p.Adopt(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Adopt(pid); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("a second Adopt = %v", err)
	}
	if j.Process().PID() != pid || j.UID() != o.UIDs.First+2 {
		t.Errorf("adopted process %d of user %d", j.Process().PID(), j.UID())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) && !zombie(pid) {
		t.Errorf("the orphan lives on: %v", err)
	}
	if left := groupsLeft(t, p); len(left) != 0 {
		t.Errorf("control groups %v are left", left)
	}
}

// zombie reports whether a process is dead and waits for a parent's look, as an
// orphan does where process 1 is slow.
func zombie(pid int) bool {
	_, err := startTime(pid)
	return err != nil
}

func TestSweepEndsOrphansNobodyKeeps(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p := openPool(t, o)
	pid := orphan(t, o)
	asked := 0
	err := p.Sweep(t.Context(), func(of int) bool { asked = of; return false })
	if err != nil || asked != pid {
		t.Fatalf("Sweep asked for %d, not %d: %v", asked, pid, err)
	}
	if left := groupsLeft(t, p); !zombie(pid) || len(left) != 0 {
		t.Errorf("the orphan or its control groups (%v) are left", left)
	}
	if n, err := p.ids.slots(); err != nil || n < 3 {
		t.Fatalf("%d slots: %v", n, err)
	}
	for i := range 3 {
		if rec, err := p.ids.read(i); err != nil || rec != (occupant{}) {
			t.Errorf("slot %d still says %v: %v", i, rec, err)
		}
	}
}

// TestSweepEndsWhatHasNotBegun: an owner may die when it has told a jail's first
// process what to become, and before that has. It is nobody's machine then, and
// would be one later that nobody knows.
func TestSweepEndsWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p, other := openPool(t, o), openPool(t, o)
	for name, stays := range map[string]bool{firstName: false, "vmm": true} {
		cmd := exec.CommandContext(t.Context(), "sleep", "1000")
		cmd.Args[0] = name
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for args := []byte(nil); len(args) == 0; { // it has them a moment after it was started
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			args = b
		}
		start, err := startTime(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		uid, err := p.ids.take(func(int) error { return nil })
		if err == nil {
			err = p.ids.write(uid, occupant{cmd.Process.Pid, start, phaseRuns})
		}
		if err != nil {
			t.Fatal(err)
		}
		p.ids.mu.Lock()
		p.ids.unlock(uid - o.UIDs.First) // as if the owner had died
		p.ids.mu.Unlock()
		if err := other.Sweep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(unix.Signal(0)); (err == nil && !zombie(cmd.Process.Pid)) != stays {
			t.Errorf("%s: it lives: %t", name, !stays)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := other.Sweep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSweepLeavesJailsOfLivingOwners(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p, other := openPool(t, o), openPool(t, o)
	j := take(t, p, Spec{Shape: self(t)})
	proc, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Sweep(t.Context(), func(int) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if zombie(proc.PID()) {
		t.Error("a sweep killed what another pool runs")
	}
	if j2 := take(t, other, Spec{Shape: self(t)}); j2.UID() == j.UID() {
		t.Errorf("two jails have user %d", j.UID())
	}
}

// TestOrphanOfADyingOwnerIsNoStranger: while somebody still has the slot, be it a
// child that the dead owner had just forked or a sweep, the process is not taken
// for one that is in no jail.
func TestOrphanOfADyingOwnerIsNoStranger(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p := openPool(t, o)
	pid := orphan(t, o)
	other := openPool(t, o)
	const slotOfOrphan = 2
	other.ids.mu.Lock()
	ok, err := other.ids.lock(slotOfOrphan)
	other.ids.mu.Unlock()
	if err != nil || !ok {
		t.Fatalf("the orphan's slot is not locked: %v", err)
	}
	if _, err := p.tryAdopt(pid); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("while somebody has the slot: %v", err)
	}
	if _, err := p.tryAdopt(os.Getpid()); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("a process in no jail: %v", err)
	}
	if err := other.ids.leave(o.UIDs.First + slotOfOrphan); err != nil {
		t.Fatal(err)
	}
	j, err := p.Adopt(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Close(), p.Sweep(t.Context(), nil)); err != nil { // and what waited for its owner
		t.Error(err)
	}
}

func TestDetachedProcessGoesOnAndIsAdopted(t *testing.T) {
	t.Parallel()
	o := ownOptions(t)
	p := openPool(t, o)
	j := take(t, p, Spec{Shape: self(t)})
	if err := j.Detach(); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Detach of a jail in which nothing runs = %v", err)
	}
	proc, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}, Orphan: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Detach(), j.Close()); err != nil {
		t.Fatal(err)
	}
	if zombie(proc.PID()) {
		t.Fatal("it ended with its jail")
	}
	other := openPool(t, o)
	again, err := other.Adopt(proc.PID())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
}
