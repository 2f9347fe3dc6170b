package firecracker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/firecracker/standin"
	"github.com/dayfly/dayfly/vmm/vmmtest"
)

// jailDir is a variable that says where the account of jails is: a child of the
// test, whose machines outlive it, has it in common with the test.
const jailDir = "DAYFLY_TEST_JAILS"

func cells(t *testing.T) *cell.Block {
	t.Helper()
	needs.Jail(t)
	dir := os.Getenv(jailDir)
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "firecracker-test-"+strconv.Itoa(os.Getpid()))
		t.Setenv(jailDir, dir)
	}
	block, err := cell.Open(t.Context(), jail.Options{Dir: dir, UIDs: jail.Range{First: 741000, Count: 512}, Cgroup: filepath.Base(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(block.Sweep(context.Background()), block.Close()); err != nil {
			t.Error(err)
		}
	})
	return block
}

// besides is a Spawner that brings what a stand-in has beside itself.
type besides struct {
	vmm.Spawner
	files []vmm.Path
}

func (b besides) Spawn(ctx context.Context, c vmm.Command) (vmm.Process, error) {
	c.KVM = false // not every host has it, and the stand-in needs none
	c.Paths = append(c.Paths, b.files...)
	return b.Spawner.Spawn(ctx, c)
}

// jailed is a Spawner of jails for an installed stand-in.
func jailed(t *testing.T, block *cell.Block, program string) vmm.Spawner {
	t.Helper()
	return jailedIn(t, block, program, nil)
}

// jailedIn is one of jails whose TAP devices are in a network namespace.
func jailedIn(t *testing.T, block *cell.Block, program string, network *os.File) vmm.Spawner {
	t.Helper()
	b := besides{Spawner: block.Cell(jail.Limits{}).Connect(network)}
	for _, name := range standin.Files(t, program) {
		b.files = append(b.files, vmm.Path{Name: name, Write: true})
	}
	return b
}

// TestConformanceOfStandInInJail is the suite where every Firecracker lives in a
// jail: a real one, with a stand-in inside.
func TestConformanceOfStandInInJail(t *testing.T) {
	block := cells(t)
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		program, network := strict(t), vmmtest.NewNamespace(t)
		return suite(vmmtest.Setup{
			Driver: firecracker.New(firecracker.Options{Binary: program}), Spawner: jailedIn(t, block, program, network), Network: network,
			Kernel: vmlinux(t), Initramfs: initramfs(t),
		})
	})
}

// TestConformanceOnKVMInJail is the same with Firecracker itself.
func TestConformanceOnKVMInJail(t *testing.T) {
	binary := needs.Firecracker(t)
	needs.KVM(t)
	block := cells(t)
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		boot, network := fromPackage(t), vmmtest.NewNamespace(t)
		return suite(vmmtest.Setup{
			Driver: firecracker.New(firecracker.Options{Binary: binary}), Spawner: block.Cell(jail.Limits{}).Connect(network), Network: network,
			Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
		})
	})
}

// TestJailedFirecrackerSeesItsOwnFilesAlone looks at all that is mounted and open.
func TestJailedFirecrackerSeesItsOwnFilesAlone(t *testing.T) {
	block := cells(t)
	program := strict(t)
	c := config(t)
	c.Spawner = jailed(t, block, program)
	c.Drives = append(c.Drives, vmm.Drive{Path: c.Initramfs, ReadOnly: true})
	m := launch(t, driver(program), c)
	proc := fmt.Sprintf("/proc/%d/", m.PID())
	b, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var mounts []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[4], "/machine/") || f[4] == c.Kernel || f[4] == c.Initramfs {
			mounts = append(mounts, strings.SplitN(f[5], ",", 2)[0]+" "+f[4])
		}
		if strings.HasPrefix(f[4], c.Dir) {
			t.Errorf("the machine's directory is there: %s", line)
		}
	}
	slices.Sort(mounts)
	want := []string{"ro /machine/drive1", "ro " + c.Initramfs, "ro " + c.Kernel, "rw /machine/drive0", "rw /machine/run"}
	slices.Sort(want)
	if !slices.Equal(mounts, want) {
		t.Errorf("mounts are %q, want %q", mounts, want)
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if fi, err := os.Stat(proc + "fd/" + fd.Name()); err == nil && fi.IsDir() {
			t.Errorf("descriptor %s is a directory", fd.Name())
		}
	}
	if names := list(t, c.Dir); !slices.Equal(names, []string{"console.pipe", "drive0", "drive1", "log.pipe", "owner.lock"}) {
		t.Errorf("the machine's directory has %q", names)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, c)
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestSocketsThatAreLinksAreNotConnectedTo has a Firecracker that was taken over
// put links to a socket of the host's where its own are looked for.
func TestSocketsThatAreLinksAreNotConnectedTo(t *testing.T) {
	block := cells(t)
	prey := filepath.Join(t.TempDir(), "prey")
	l, err := net.Listen("unix", prey)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	program := standin.Install(t, standin.Faults{Links: map[string]string{"run/vsock.sock": prey, "run/api.sock": prey}})
	d, c := driver(program), config(t)
	c.Spawner, c.Orphan = jailed(t, block, program), true
	m := launch(t, d, c)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := m.Channel(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Channel = %v", err)
	}
	if err := m.Detach(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Adopt(t.Context(), c); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Errorf("Adopt = %v", err)
	}
	if waits(t, l) {
		t.Error("a link was followed to the host's socket")
	}
	if err := firecracker.KillOrphans(t.Context(), c.Dir); err != nil {
		t.Error(err)
	}
	if _, err := d.Adopt(t.Context(), c); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("Adopt = %v", err)
	}
	nothingLeft(t, c)
}

// waits reports whether somebody has connected.
func waits(t *testing.T, l net.Listener) bool {
	t.Helper()
	raw, err := l.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ctl := raw.Control(func(fd uintptr) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	})
	if err := errors.Join(ctl, err); err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// TestRefusedDriveLeavesTheOldOne in a jail, where what was brought is taken away
// again.
func TestRefusedDriveLeavesTheOldOne(t *testing.T) {
	block := cells(t)
	program := standin.Install(t, standin.Faults{Refuse: "PATCH /drives/drive0", RefuseWords: "no"})
	c := config(t)
	c.Spawner = jailed(t, block, program)
	m := launch(t, driver(program), c)
	mounts := func() int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(b), "\n")
	}
	before := mounts()
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.SetDrive(t.Context(), 0, vmm.Drive{Path: other}); err == nil {
		t.Error("SetDrive did what was refused")
	}
	if got, err := m.Drive(t.Context(), 0); err != nil || got.Path != c.Drives[0].Path {
		t.Errorf("Drive = %+v, %v", got, err)
	}
	if after := mounts(); after != before {
		t.Errorf("%d mounts became %d", before, after)
	}
	if names := list(t, c.Dir); slices.Contains(names, "drive0.new") {
		t.Errorf("the machine's directory has %q", names)
	}
}

// TestAnotherMachinesProcessIsNotAdopted has a process call itself by the name of
// a machine whose drives it has not.
func TestAnotherMachinesProcessIsNotAdopted(t *testing.T) {
	block := cells(t)
	program := strict(t)
	c := config(t)
	c.Spawner, c.Orphan = jailed(t, block, program), true
	d := driver(program)
	m := launch(t, d, c)
	if err := m.Detach(); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(c.Dir, "drive0") // as if that were a machine with another drive
	if err := errors.Join(os.Remove(link), os.Symlink(c.Kernel, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Adopt(t.Context(), c); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("Adopt = %v", err)
	}
	if err := errors.Join(os.Remove(link), os.Symlink(c.Drives[0].Path, link)); err != nil {
		t.Fatal(err)
	}
	again, err := d.Adopt(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, c)
}

// TestJailedFirecrackerDoesNotLiveInTheHostsNetwork leaves out to say where its TAP
// device is, and says then that it is here.
func TestJailedFirecrackerDoesNotLiveInTheHostsNetwork(t *testing.T) {
	block := cells(t)
	program := strict(t)
	c := config(t)
	c.NICs = []vmm.NIC{{TAP: vmmtest.TAP(t), MAC: "06:00:0a:00:00:02"}}
	c.Spawner = jailed(t, block, program)
	refused(t, driver(program), c, dayfly.Unavailable)
	ours, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	c.Spawner = jailedIn(t, block, program, ours)
	refused(t, driver(program), c, dayfly.Denied)
}
