package jail

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

// Of control groups of version 2 alone. Hosts that lack them run these tests in
// a guest: see test/e2e.

// openUnified is openPool where every controller is one of version 2.
func openUnified(t *testing.T, o Options) *Pool {
	t.Helper()
	p := openPool(t, o)
	const all = "version 2 of every"
	for _, c := range controllers {
		if !p.tree.places[c].v2 {
			needs.Controller(t, all, []string{all})
		}
	}
	return p
}

// kernelSays is what a file of a jail's control group holds.
func kernelSays(t *testing.T, j *Jail, file string) string {
	t.Helper()
	dir, _ := j.group.dir("memory")
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// TestKernelHasTheLimitsOfVersion2: it is asked for each, and for who is bound by
// them.
func TestKernelHasTheLimitsOfVersion2(t *testing.T) {
	t.Parallel()
	p := openUnified(t, testOptions(t))
	dir := tempDir(t)
	device, err := disk(dir)
	if err != nil {
		t.Skip(needs.Prefix + "disk: " + err.Error() + ": have /tmp on a disk")
	}
	j := take(t, p, Spec{Shape: self(t), Limits: Limits{
		CPUs: .25, Memory: 256 << 20, Processes: 50, IO: []IO{{Path: dir, ReadBytes: 1 << 20, WriteBytes: 2 << 20, WriteOps: 300}},
	}})
	proc, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu.max": "5000 20000", "memory.max": strconv.Itoa(256 << 20), "memory.oom.group": "1", "pids.max": "50",
		"io.max":       device + " rbps=1048576 wbps=2097152 riops=max wiops=300",
		"cgroup.procs": strconv.Itoa(proc.PID()), "cgroup.controllers": "cpu io memory pids",
	} {
		if got := kernelSays(t, j, file); got != want {
			t.Errorf("%s holds %q, not %q", file, got, want)
		}
	}
	dir, _ = j.group.dir("memory")
	if _, err := os.Stat(filepath.Join(dir, "memory.swap.max")); err == nil && kernelSays(t, j, "memory.swap.max") != "0" {
		t.Error("what is in memory may get to the swap")
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(proc.PID()) + "/cgroup")
	if want := "0::/" + filepath.Base(filepath.Dir(dir)) + "/" + strconv.Itoa(j.UID()) + "\n"; err != nil || string(b) != want {
		t.Errorf("its control groups are %q, not %q: %v", b, want, err)
	}
}

// TestControllerThatWasTakenAwayIsBroughtBack: who manages the host's groups may
// do that, and another process may have made the directory a moment ago.
func TestControllerThatWasTakenAwayIsBroughtBack(t *testing.T) {
	t.Parallel()
	p := openUnified(t, ownOptions(t))
	j := take(t, p, Spec{Shape: self(t)})
	dir, _ := j.group.dir("memory")
	for _, c := range controllers {
		if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), []byte("-"+c), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Limit(Limits{CPUs: 1, Memory: 1 << 30, Processes: 7}); err != nil {
		t.Fatal(err)
	}
	if got := kernelSays(t, j, "memory.max"); got != strconv.Itoa(1<<30) {
		t.Errorf("memory.max holds %q", got)
	}
}

// TestGroupWithProcessesIsLeftAsItIs: a container's own group is the top of what
// it sees, and has its processes in it.
func TestGroupWithProcessesIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	p := openUnified(t, testOptions(t))
	j := take(t, p, Spec{Shape: self(t)}) // its group is that of a container here
	dir, _ := j.group.dir("memory")
	t.Cleanup(func() { _ = os.Remove(filepath.Join(dir, "dayfly")) })
	for _, c := range controllers {
		err := place{dir: filepath.Join(dir, "dayfly"), v2: true}.usable(c)
		if dayfly.KindOf(err) != dayfly.Unavailable || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", c, err)
		}
	}
	if got := kernelSays(t, j, "cgroup.subtree_control"); got != "" {
		t.Errorf("groups below it have got %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "dayfly")); err == nil {
		t.Error("a group was made that nobody can use")
	}
}
