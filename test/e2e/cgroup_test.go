package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// jailInGuest runs the tests of package jail, which come as standard input. The
// workspace's disk is mounted once more: what is on the overlay of the root is on
// no disk that could be limited, and users cannot be mapped there.
const jailInGuest = `
set -e
if grep ' cgroup ' /proc/mounts; then exit 1; fi
grep ' cgroup2 ' /proc/mounts
mount /dev/dm-0 /mnt
mkdir -m 1777 /mnt/jail
cat > /mnt/jail/test
chmod 755 /mnt/jail/test
cd /mnt/jail
TMPDIR=/mnt/jail DAYFLY_NEEDS=strict ./test -test.v -test.timeout 5m -unified -test.skip "$1"
grep . /sys/fs/cgroup/cgroup.subtree_control
find /sys/fs/cgroup -name 'dayfly-test-*'
grep -h '/mnt/jail/' /proc/mounts || true
`

// notInGuest are those tests that need a QEMU, which would run in an emulated
// guest, and two that only take long there: of calls and descriptors, not groups.
const notInGuest = "QEMU|Loader|TestFatalCall|TestManyDescriptors|Benchmark"

// ofUnified must have run, and not been skipped.
var ofUnified = []string{
	"TestKernelHasTheLimitsOfVersion2", "TestControllerThatWasTakenAwayIsBroughtBack", "TestGroupWithProcessesIsLeftAsItIs",
	"TestQuarterOfACPUIsAQuarter", "TestWritesAreAsSlowAsTheirLimit", "TestThreadsAreBoundedByTheirGroup",
	"TestMachineThatNeedsTooMuchMemoryIsKilledAlone", "TestControlGroupThatWasRemovedIsNamed",
	"TestJailIsUsedOnceAndLeavesNothing", "TestSweepEndsOrphansNobodyKeeps", "TestOrphanIsAdoptedAndEnded",
	"TestHostileProgramIsRefusedEveryWayOut", "TestWaysOutAreOpenOutside",
}

// TestJailHoldsByVersion2 runs package jail's tests as root of a guest, whose
// kernel has control groups of version 2 alone, whatever this host has. A
// controller that is not there by that version fails every test that opens a pool.
func TestJailHoldsByVersion2(t *testing.T) {
	t.Parallel()
	state := newState(t)
	path := filepath.Join(t.TempDir(), "jail.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/dayfly/dayfly/jail")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r := dayflyIn(t, state, in, "run", "-i", "-u", "root", "--memory", "1G", "base", "--", "sh", "-c", jailInGuest, "sh", notInGuest)
	var passed []string
	for line := range strings.Lines(r.stdout) {
		verdict, rest, _ := strings.Cut(strings.TrimPrefix(line, "--- "), ": ")
		if name, _, _ := strings.Cut(rest, " "); strings.HasPrefix(line, "--- ") && verdict == "PASS" {
			passed = append(passed, name)
		} else if strings.HasPrefix(line, "--- ") {
			t.Errorf("%s: %s", name, verdict)
		}
	}
	for _, name := range ofUnified {
		if !slices.Contains(passed, name) {
			t.Errorf("%s did not pass", name)
		}
	}
	_, after, _ := strings.Cut(r.stdout, "\nPASS\n")
	controllers, left, _ := strings.Cut(after, "\n")
	for _, c := range []string{"cpu", "io", "memory", "pids"} {
		if !slices.Contains(strings.Fields(controllers), c) {
			t.Errorf("%s is none of the guest's controllers in use: %q", c, controllers)
		}
	}
	if left != "" {
		t.Errorf("the jails left %s", left)
	}
	if r.code != 0 || t.Failed() {
		t.Errorf("exit %d; it said\n%s%s", r.code, r.stdout, r.stderr)
	}
	for line := range strings.Lines(r.stdout) { // what was measured
		if strings.Contains(line, "_test.go:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	t.Logf("%d tests passed", len(passed))
}
