package firecracker_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/firecracker/standin"
	"github.com/dayfly/dayfly/vmm/vmmtest"
)

func config(t *testing.T) vmm.Config {
	t.Helper()
	drive := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(drive, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return vmm.Config{
		ID: "under_test", Dir: t.TempDir(), Accel: dayfly.KVM, CPUs: 1, MemoryMiB: 128,
		Kernel: vmlinux(t), Initramfs: initramfs(t), Drives: []vmm.Drive{{Path: drive}},
	}
}

func driver(program string) *firecracker.Driver {
	return firecracker.New(firecracker.Options{Binary: program})
}

// refused launches what must not come up, and checks that nothing is left.
func refused(t *testing.T, d *firecracker.Driver, c vmm.Config, want dayfly.Kind) error {
	t.Helper()
	m, err := d.Launch(t.Context(), c)
	if err == nil {
		_ = m.Close()
		t.Fatal("it launched")
	}
	if got := dayfly.KindOf(err); got != want {
		t.Errorf("error is %s: %v; want %s", got, err, want)
	}
	nothingLeft(t, c)
	return err
}

func nothingLeft(t *testing.T, c vmm.Config) {
	t.Helper()
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left, err := firecracker.Orphans(t.Context(), c.Dir); err != nil || len(left) > 0 {
		t.Errorf("still running: %v, %v", left, err)
	}
	f, err := os.OpenFile(c.Drives[0].Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Errorf("the drive is locked: %v", err)
	}
}

func TestMissingFirecrackerSaysHowToGetIt(t *testing.T) {
	t.Parallel()
	d := driver(filepath.Join(t.TempDir(), "none"))
	err := refused(t, d, config(t), dayfly.Unavailable)
	_, versionErr := d.Version(t.Context())
	for _, err := range []error{err, versionErr} {
		if !strings.Contains(err.Error(), "dayfly setup firecracker") {
			t.Errorf("no remedy in %q", err)
		}
	}
}

func TestOldFirecrackerIsRefused(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"1.4.1", "1.15.9", "1.16.0"} { // a machine restored by 1.16.0 hears nothing
		d := driver(standin.Install(t, standin.Faults{Version: old}))
		if _, err := d.Version(t.Context()); dayfly.KindOf(err) != dayfly.Unavailable {
			t.Errorf("Version = %v", err)
		}
		if err := refused(t, d, config(t), dayfly.Unavailable); !strings.Contains(err.Error(), "version "+old) {
			t.Errorf("error is %q", err)
		}
	}
	for _, want := range []string{"1.16.1", "1.16.2", "1.17.0-dev", "2.0.0"} {
		d := driver(standin.Install(t, standin.Faults{Version: want}))
		for range 2 { // the second time it is known
			if got, err := d.Version(t.Context()); err != nil || got != want {
				t.Errorf("Version of %s = %q, %v", want, got, err)
			}
		}
	}
}

func TestEmulationIsForAnotherVMM(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Accel = dayfly.TCG
	if err := refused(t, driver(strict(t)), c, dayfly.Invalid); !strings.Contains(err.Error(), "qemu") {
		t.Errorf("no remedy in %q", err)
	}
}

func TestLayersAreForAnotherVMM(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Drives = append(c.Drives, vmm.Drive{Path: c.Initramfs, Below: []string{c.Kernel}})
	refused(t, driver(strict(t)), c, dayfly.Unavailable)
}

func TestCompressedKernelIsRefused(t *testing.T) {
	t.Parallel()
	c := config(t)
	if err := os.WriteFile(c.Kernel, []byte("MZ not an ELF file, as in /boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, driver(strict(t)), c, dayfly.Invalid)
}

// launching is what a launch asks, in this order.
var launching = []string{
	"GET /", "PUT /machine-config", "PUT /boot-source", "PUT /drives/drive0", "PUT /vsock", "PUT /entropy", "PUT /actions",
}

func TestDeathAtEachStepOfALaunchLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, at := range launching {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			err := refused(t, driver(standin.Install(t, standin.Faults{DieBefore: at})), config(t), dayfly.Internal)
			if s := err.Error(); !strings.Contains(s, "dying as asked") || !strings.Contains(s, "exit status 152") {
				t.Errorf("its last words are not in %q", s)
			}
		})
	}
}

func TestSilenceAtEachStepOfALaunchEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for _, f := range append([]standin.Faults{{NoSocket: true}, {Deaf: true}}, hangs()...) {
		t.Run(fmt.Sprintf("%+v", f), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			c := config(t)
			if _, err := driver(standin.Install(t, f)).Launch(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Launch = %v", err)
			}
			nothingLeft(t, c)
		})
	}
}

func hangs() (all []standin.Faults) {
	for _, at := range launching {
		all = append(all, standin.Faults{HangAt: at})
	}
	return all
}

func TestRefusalIsTheRightKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		request, words string
		want           dayfly.Kind
	}{
		{"PUT /actions", "Internal error while starting microVM: Error creating KVM object: No such file or directory (os error 2)", dayfly.Unavailable},
		{"PUT /actions", "Cannot load kernel due to invalid memory configuration or invalid kernel image: x", dayfly.Invalid},
		{"PUT /actions", "Guest memory error: Cannot allocate memory (os error 12)", dayfly.Unavailable},
		{"PUT /boot-source", "The kernel file cannot be opened: x", dayfly.Invalid},
		{"PUT /drives/drive0", "Unable to create the virtio block device: x", dayfly.Unavailable},
		{"PUT /vsock", "something new", dayfly.Internal},
	} {
		err := refused(t, driver(standin.Install(t, standin.Faults{Refuse: c.request, RefuseWords: c.words})), config(t), c.want)
		var public *dayfly.Error
		if !errors.As(err, &public) || strings.Contains(public.Msg, c.words) {
			t.Errorf("%s: the VMM's own words are in %q", c.request, public.Msg)
		}
	}
}

func TestNonsenseIsBounded(t *testing.T) {
	t.Parallel()
	for _, f := range []standin.Faults{{Garbage: true}, {Endless: true}} {
		err := refused(t, driver(standin.Install(t, f)), config(t), dayfly.Internal)
		if n := len(err.Error()); n > 16<<10 {
			t.Errorf("error has %d bytes", n)
		}
	}
}

func launch(t *testing.T, d *firecracker.Driver, c vmm.Config) vmm.Machine {
	t.Helper()
	m, err := d.Launch(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// TestStateOfAnotherVersionIsRefused has what 1.16.2 saved loaded by the next.
func TestStateOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	c := config(t)
	m := launch(t, driver(strict(t)), c)
	c.State, c.Memory.File = save(t, m), memory(t, c)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, driver(standin.Install(t, standin.Faults{Version: "1.17.0"})), c, dayfly.Unavailable)
}

// memory makes an empty file for the RAM.
func memory(t *testing.T, c vmm.Config) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("memory", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(int64(c.MemoryMiB) << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

func save(t *testing.T, m vmm.Machine) []byte {
	t.Helper()
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	state, err := m.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// TestStateIsSavedWhicheverFileComesFirst has a release that writes the memory
// ahead of the state: then it is given somewhere to write it.
func TestStateIsSavedWhicheverFileComesFirst(t *testing.T) {
	t.Parallel()
	c := config(t)
	plain := save(t, launch(t, driver(strict(t)), c))
	c = config(t)
	other := save(t, launch(t, driver(standin.Install(t, standin.Faults{MemoryFirst: true})), c))
	if len(plain) == 0 || len(other) == 0 {
		t.Errorf("states have %d and %d bytes", len(plain), len(other))
	}
}

// TestSavedMemoryHasHoles looks at what a template's memory takes on a disk.
func TestSavedMemoryHasHoles(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Memory = vmm.Memory{File: memory(t, c), Shared: true}
	save(t, launch(t, driver(strict(t)), c))
	data, err := vmm.DataExtents(c.Memory.File, int64(c.MemoryMiB)<<20)
	if err != nil {
		t.Fatal(err)
	}
	want := []vmm.Extent{{Off: standin.KernelAt, Len: vmm.PageSize}}
	if !slices.Equal(data, want) {
		t.Errorf("the file holds %v, want %v", data, want)
	}
	text := make([]byte, len(standin.Banner))
	if _, err := c.Memory.File.ReadAt(text, standin.KernelAt); err != nil || string(text) != standin.Banner {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

// TestLargeMemoryIsFound has more memory than fits below a guest's devices, and
// something at its very end.
func TestLargeMemoryIsFound(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.MemoryMiB = 4096
	d := driver(strict(t))
	m := launch(t, d, c)
	tell(t, m, "keep far away", "ok ")
	for range 2 { // one that booted, and one that was restored
		c.Dir, c.State = t.TempDir(), save(t, m)
		c.Memory.File = copyRAM(t, m, c)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		m = launch(t, d, c)
		tell(t, m, "kept", "ok far away")
	}
}

// tell asks the guest for something.
func tell(t *testing.T, m vmm.Machine, line, want string) {
	t.Helper()
	conn, err := m.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(line + "\n")); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil { // the greeting
		t.Fatal(err)
	}
	if got, err := in.ReadString('\n'); err != nil || strings.TrimSuffix(got, "\n") != want {
		t.Errorf("%s: %q, %v; want %q", line, got, err, want)
	}
}

// copyRAM copies a paused machine's memory.
func copyRAM(t *testing.T, m vmm.Machine, c vmm.Config) *os.File {
	t.Helper()
	ram, err := m.RAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pages, err := ram.Touched(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := memory(t, c)
	for _, e := range pages {
		b := make([]byte, e.Len)
		if _, err := ram.ReadAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestMachineWhoseAPIHangsIsClosedAllTheSame(t *testing.T) {
	t.Parallel()
	c := config(t)
	m := launch(t, driver(standin.Install(t, standin.Faults{HangAt: "PATCH /vm"})), c)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Pause = %v", err)
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if got := m.Exit(); got.Cause != vmm.Closed {
		t.Errorf("exit is %+v", got)
	}
	nothingLeft(t, c)
}

func TestAbandonedMachineThatDoesNotAnswerRunsOn(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Orphan = true
	d := driver(standin.Install(t, standin.Faults{HangAt: "GET /vm/config"}))
	m := launch(t, d, c)
	if err := m.Detach(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Adopt(ctx, c); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Errorf("Adopt = %v", err)
	}
	if pids, err := firecracker.Orphans(t.Context(), c.Dir); err != nil || len(pids) != 1 || pids[0] != m.PID() {
		t.Errorf("Orphans = %v, %v; want %d", pids, err, m.PID())
	}
	if err := firecracker.KillOrphans(t.Context(), c.Dir); err != nil {
		t.Error(err)
	}
	if _, err := d.Adopt(t.Context(), c); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("Adopt = %v", err)
	}
	nothingLeft(t, c)
}

func TestOptionalDevicesAreAskedForAsTheAPIHasThem(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var flushed []string
	d := firecracker.New(firecracker.Options{
		Binary: strict(t), Balloon: true,
		Metrics: func(machine string, line []byte) {
			mu.Lock()
			defer mu.Unlock()
			flushed = append(flushed, machine+" "+string(line))
		},
	})
	c := config(t)
	c.Drives[0].Limit = vmm.Limit{ReadBytes: 1 << 20, Burst: 4 * time.Second}
	c.Drives = append(c.Drives, vmm.Drive{Path: c.Initramfs, ReadOnly: true, Limit: vmm.Limit{ReadOps: 100, WriteOps: 200}})
	m := launch(t, d, c)
	conn, err := m.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("reboot\n")); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
	mu.Lock()
	defer mu.Unlock()
	if len(flushed) != 1 || !strings.HasPrefix(flushed[0], `under_test {"`) {
		t.Errorf("metrics are %q", flushed)
	}
	nothingLeft(t, c)
}

// TestDriveIsToldByTheVMMsOwnWord sets a drive, where another owner had died
// before it could, and asks the next owner what is behind it.
func TestDriveIsToldByTheVMMsOwnWord(t *testing.T) {
	t.Parallel()
	c := config(t)
	c.Orphan = true
	d := driver(strict(t))
	m := launch(t, d, c)
	was, other := c.Drives[0].Path, filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	behind := func(want string) {
		t.Helper()
		got, err := m.Drive(t.Context(), 0)
		if err != nil || got.Path != want {
			t.Errorf("Drive = %+v, %v; want %s", got, err, want)
		}
	}
	behind(was)
	link := filepath.Join(c.Dir, "drive0.new")
	if err := os.Symlink(other, link); err != nil { // killed before the first request
		t.Fatal(err)
	}
	behind(was)
	if err := m.SetDrive(t.Context(), 0, vmm.Drive{Path: other}); err != nil {
		t.Fatal(err)
	}
	behind(other)
	if err := m.Detach(); err != nil {
		t.Fatal(err)
	}
	m, err := d.Adopt(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	behind(other)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, c)
}

// TestRefusedTAPIsTheRightKind has it taken between our look and Firecracker's.
func TestRefusedTAPIsTheRightKind(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]dayfly.Kind{
		"Open tap device failed: Error while creating ifreq structure: Resource busy (os error 16)": dayfly.Conflict,
		"something new": dayfly.Unavailable,
	} {
		c := config(t)
		c.NICs = []vmm.NIC{{TAP: vmmtest.TAP(t), MAC: "06:00:0a:00:00:02"}}
		refused(t, driver(standin.Install(t, standin.Faults{Refuse: "PUT /network-interfaces/nic0", RefuseWords: words})), c, want)
		if f, err := vmm.OpenTAP(c.NICs[0].TAP); err != nil {
			t.Errorf("the TAP device is not free: %v", err)
		} else {
			_ = f.Close()
		}
	}
}
