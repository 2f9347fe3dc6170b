// Package vmmtest holds a vmm.Driver to its contract.
//
// Run launches machines with a guest of its own (package guest), asks it to do
// things over the machine's channel (package script) and looks at what becomes
// of the machine. Every sentence of package vmm that promises something has a
// test here; a new driver is one Setup away.
package vmmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// Setup is a driver and what it boots. New tests get a Setup of their own.
type Setup struct {
	Driver vmm.Driver
	Accel  dayfly.Accel

	// What boots to a guest that serves package script.
	Kernel, Initramfs string
	Cmdline           []string

	// Processes says that every machine is a process of its own, which dies
	// with ours unless it is an orphan. The tests for that start this test
	// binary again, so that Run must not be called by a parallel test.
	Processes bool

	// Orphans and KillOrphans find and end machines below a directory by their
	// processes alone. Both or neither.
	Orphans     func(dir string) ([]int, error)
	KillOrphans func(dir string) error

	// FullLayers says that layers hold all of their drive from the first, so that
	// none is empty and a merge needs no room.
	FullLayers bool

	// Spawner starts the processes of machines. Nil: the driver itself does.
	Spawner vmm.Spawner

	// Network is the network namespace that the machines' TAPs are to be in. Nil:
	// this process's.
	Network *os.File

	// Crash makes the VMM of a machine die. Nil: SIGKILL to its process.
	Crash func(vmm.Machine) error
}

// deadline bounds every wait for something that must happen. It is far beyond
// what an emulated guest takes to boot on a busy host.
const deadline = 2 * time.Minute

// Run runs the suite as subtests of t. setup is called once for each.
func Run(t *testing.T, setup func(*testing.T) Setup) {
	if isChild() {
		child(t, setup(t))
		return
	}
	for _, c := range promises {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			if c.processes && !s.Processes {
				return // nothing is promised
			}
			c.test(t, s)
		})
	}
}

type promise struct {
	name      string
	test      func(*testing.T, Setup)
	processes bool // only where machines are processes
}

var promises = []promise{
	{"VersionIsNotEmpty", versionIsNotEmpty, false},
	{"InvalidConfigsAreRefused", invalidConfigsAreRefused, false},
	{"CancelledLaunchLeavesNothing", cancelledLaunchLeavesNothing, false},
	{"LongDirectoryWorks", longDirectoryWorks, false},

	{"ChannelOpensBeforeTheGuestIsUp", channelOpensBeforeTheGuestIsUp, false},
	{"ChannelCarriesMuch", channelCarriesMuch, false},
	{"ChannelIsOneConnection", channelIsOneConnection, false},
	{"ChannelOpensAgainAtOnce", channelOpensAgainAtOnce, false},
	{"EveryCPURuns", everyCPURuns, false},
	{"KernelParametersReachTheGuest", kernelParametersReachTheGuest, false},

	{"DrivesComeInOrder", drivesComeInOrder, false},
	{"ReadOnlyDriveIsNotWritten", readOnlyDriveIsNotWritten, false},
	{"WritesReachTheDrive", writesReachTheDrive, false},
	{"WritableDriveIsNotShared", writableDriveIsNotShared, false},
	{"FullHostDiskIsTheGuestsError", fullHostDiskIsTheGuestsError, false},

	{"DrivesAreNoFasterThanTheirLimits", drivesAreNoFasterThanTheirLimits, false},
	{"LimitIsSetAndLiftedWhileItRuns", limitIsSetAndLiftedWhileItRuns, false},
	{"LimitsAreNotSaved", limitsAreNotSaved, false},
	{"NICsAreNoFasterThanTheirLimits", nicsAreNoFasterThanTheirLimits, false},

	{"FramesReachTheNICTheyAreSentTo", framesReachTheNICTheyAreSentTo, false},
	{"SavedMachineGoesOnOnAnotherTAP", savedMachineGoesOnOnAnotherTAP, false},
	{"OrphanGoesOnWithItsNICs", orphanGoesOnWithItsNICs, false},
	{"TAPIsOneMachines", tapIsOneMachines, false},
	{"MachineWithoutNICsHasNone", machineWithoutNICsHasNone, false},

	{"PauseStopsAndResumeContinues", pauseStopsAndResumeContinues, false},
	{"GuestClockKeepsTime", guestClockKeepsTime, false},

	{"SavedMachineGoesOnBesideItsCopies", savedMachineGoesOnBesideItsCopies, false},
	{"CopiesShareTheirMemoryFile", copiesShareTheirMemoryFile, false},
	{"MemoryIsFilledBeforeTheMachineGoesOn", memoryIsFilledBeforeTheMachineGoesOn, false},
	{"SetDriveShowsTheOtherFile", setDriveShowsTheOtherFile, false},
	{"SaveIsRefusedWhileRunning", saveIsRefusedWhileRunning, false},
	{"SpoiltStateIsRefused", spoiltStateIsRefused, false},

	{"LayerIsEmptyUntilTheGuestWrites", layerIsEmptyUntilTheGuestWrites, false},
	{"MergedDriveHoldsTheSame", mergedDriveHoldsTheSame, false},
	{"MergedDriveGoesOn", mergedDriveGoesOn, false},
	{"MergeThatIsCutShortChangesNothing", mergeThatIsCutShortChangesNothing, false},
	{"MergeOntoAFullDiskChangesNothing", mergeOntoAFullDiskChangesNothing, false},

	{"RebootIsPowerOff", rebootIsPowerOff, false},
	{"PanicIsTold", panicIsTold, false},
	{"CrashIsTold", crashIsTold, false},
	{"CloseWorksInEveryState", closeWorksInEveryState, false},
	{"EndedMachineRefuses", endedMachineRefuses, false},
	{"ConsoleIsBounded", consoleIsBounded, false},

	{"OrphanGoesOnWithAnotherOwner", orphanGoesOnWithAnotherOwner, false},
	{"OrphanWithManyLayersIsAdopted", orphanWithManyLayersIsAdopted, false},
	{"OrphanThatEndedAloneIsToldOf", orphanThatEndedAloneIsToldOf, false},
	{"MachineHasOneOwner", machineHasOneOwner, false},
	{"OnlyOrphansAreLetGo", onlyOrphansAreLetGo, false},

	{"ClosedProcessIsGone", closedProcessIsGone, true},
	{"ParentsDeathKills", parentsDeathKills, true},
	{"OrphanOutlivesItsParent", orphanOutlivesItsParent, true},
	{"OrphanOfAKilledParentIsAdopted", orphanOfAKilledParentIsAdopted, true},
	{"CommandLineHoldsNoEnvironment", commandLineHoldsNoEnvironment, true},
}

// Guest builds the suite's guest, a static program for pid 1, and returns it.
func Guest(t testing.TB) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/dayfly/dayfly/vmm/vmmtest/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, said)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// config is a machine of the setup's, with drives of the given sizes in bytes.
func (s Setup) config(t *testing.T, sizes ...int64) vmm.Config {
	t.Helper()
	c := vmm.Config{
		ID: "conformance", Dir: t.TempDir(), Accel: s.Accel, CPUs: 1, MemoryMiB: 256,
		Kernel: s.Kernel, Initramfs: s.Initramfs, Cmdline: s.Cmdline, Spawner: s.Spawner,
	}
	for _, size := range sizes {
		c.Drives = append(c.Drives, vmm.Drive{Path: sparse(t, t.TempDir(), size)})
	}
	return c
}

func sparse(t *testing.T, dir string, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "drive-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// launch starts a machine that the test's end closes.
func (s Setup) launch(t *testing.T, c vmm.Config) vmm.Machine {
	t.Helper()
	m, err := s.Driver.Launch(t.Context(), c)
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if t.Failed() {
			t.Logf("console: %q", m.Console())
		}
	})
	return m
}

// lacks is what the driver says that its machines do without: it is held to
// that, too.
func (s Setup) lacks() vmm.Lacks { return vmm.LacksOf(s.Driver) }

func (s Setup) crash(m vmm.Machine) error {
	if s.Crash != nil {
		return s.Crash(m)
	}
	return syscall.Kill(m.PID(), syscall.SIGKILL)
}

// ended waits for a machine's end.
func ended(t *testing.T, m vmm.Machine) vmm.Exit {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(deadline):
		t.Fatal("the machine does not end")
	}
	return m.Exit()
}

func wantKind(t *testing.T, err error, want dayfly.Kind) {
	t.Helper()
	if got := dayfly.KindOf(err); got != want {
		t.Errorf("error is %q (%v), want kind %q", got, err, want)
	}
}
