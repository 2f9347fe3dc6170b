package jail

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
)

// qemuShape is what QEMU needs of a host.
func qemuShape(t testing.TB) Shape {
	t.Helper()
	return Shape{Program: needs.QEMU(t), Data: []string{"/usr/share/qemu", "/usr/share/seabios"}}
}

// startQEMU starts a machine without a guest in a jail and returns it when its
// monitor has answered. The arguments are added.
func startQEMU(t testing.TB, j *Jail, more []string, files ...*os.File) (*Process, *monitor) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	t.Cleanup(func() { _ = ours.Close() })
	args := append([]string{
		"qemu", "-name", "guest=jailed", "-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-M", "microvm,isa-serial=off,rtc=on,acpi=off,pic=off,pit=off", "-accel", "tcg,thread=single", "-cpu", "max",
		"-smp", "1", "-m", "64M", "-bios", "qboot.rom", "-S",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
	}, more...)
	p, err := j.Start(t.Context(), Command{Args: args, Env: []string{"LC_ALL=C"}, Stderr: w, Files: append([]*os.File{theirs}, files...)})
	_, _ = theirs.Close(), w.Close()
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{ours, bufio.NewReader(ours)}
	if _, err := m.replies.ReadString('\n'); err != nil {
		said, _ := io.ReadAll(io.LimitReader(r, 4096))
		t.Fatalf("%v; %v; it said %q", err, p.Exit().Err(), said)
	}
	m.ask(t, `{"execute":"qmp_capabilities"}`, 0)
	m.ask(t, `{"execute":"query-status"}`, 0)
	return p, m
}

// monitor is QEMU's.
type monitor struct {
	socket  *os.File
	replies *bufio.Reader
}

// ask sends a command, with a descriptor unless fd is 0, and reads its answer.
func (m *monitor) ask(t testing.TB, command string, fd int) {
	t.Helper()
	var rights []byte
	if fd != 0 {
		rights = unix.UnixRights(fd)
	}
	if err := unix.Sendmsg(int(m.socket.Fd()), []byte(command), rights, nil, 0); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := m.replies.ReadString('\n')
		if err != nil || strings.Contains(line, `"error"`) {
			t.Fatalf("%s: %s %v", command, line, err)
		}
		if strings.Contains(line, `"return"`) {
			return
		}
	}
}

// status is /proc/PID/status by its keys.
func status(t testing.TB, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		m[key] = strings.TrimSpace(value)
	}
	return m
}

func TestQEMULivesInItsJail(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	shape := qemuShape(t)
	dir := tempDir(t)
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	memory, err := os.CreateTemp(dir, "memory")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	if err := errors.Join(memory.Truncate(64<<20), memory.Chmod(0o444)); err != nil {
		t.Fatal(err)
	}
	j := take(t, p, Spec{Shape: shape, Files: []File{{Path: disk, Write: true, Own: true}}, Limits: Limits{CPUs: 1, Memory: 512 << 20}})
	drive, err := json.Marshal(map[string]any{"driver": "raw", "node-name": "d", "file": map[string]any{"driver": "file", "filename": disk, "locking": "on"}})
	if err != nil {
		t.Fatal(err)
	}
	proc, m := startQEMU(t, j, []string{
		"-blockdev", string(drive), "-device", "virtio-blk-device,drive=d",
		"-object", "memory-backend-file,id=ram,size=64M,mem-path=/proc/self/fd/4,share=off,readonly=on,rom=off", "-machine", "memory-backend=ram",
	}, memory)
	pid := proc.PID()
	m.ask(t, `{"execute":"cont"}`, 0) // its emulator translates code, which it then runs
	m.ask(t, `{"execute":"query-status"}`, 0)
	t.Run("rights", func(t *testing.T) { checkRights(t, pid, j.UID()) })
	t.Run("namespaces", func(t *testing.T) { checkNamespaces(t, pid) })
	t.Run("mounts", func(t *testing.T) { checkMounts(t, pid, j, disk) })
	t.Run("descriptors", func(t *testing.T) { checkDescriptors(t, pid, disk) })
	t.Run("control groups", func(t *testing.T) { checkGroup(t, pid, j) })
	t.Run("memory is read from outside", func(t *testing.T) { checkReadable(t, pid) })
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err == nil {
		t.Error("QEMU outlives its jail")
	}
	var st unix.Stat_t
	if err := unix.Stat(disk, &st); err != nil || st.Uid != 0 || st.Gid != 0 {
		t.Errorf("the disk is %d's after the jail's end: %v", st.Uid, err)
	}
}

// TestQEMUUsesFilesByDescriptor is how a driver can give a jailed QEMU files
// that its user has no right to, and that have no path in the jail.
func TestQEMUUsesFilesByDescriptor(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	j := take(t, p, Spec{Shape: qemuShape(t)})
	disk, err := os.CreateTemp(tempDir(t), "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// QEMU takes the descriptor of a set that is open as it would open the file.
	state, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if err := disk.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	_, m := startQEMU(t, j, []string{
		"-add-fd", "fd=4,set=1", "-add-fd", "fd=5,set=2",
		"-blockdev", `{"driver":"raw","node-name":"d","file":{"driver":"file","filename":"/dev/fdset/1","locking":"on"}}`, "-device", "virtio-blk-device,drive=d",
	}, disk, state)
	m.ask(t, `{"execute":"xen-save-devices-state","arguments":{"filename":"/dev/fdset/2","live":true}}`, 0)
	if info, err := state.Stat(); err != nil || info.Size() == 0 {
		t.Errorf("it saved %d bytes: %v", info.Size(), err)
	}
	later, err := os.CreateTemp(tempDir(t), "later")
	if err != nil {
		t.Fatal(err)
	}
	defer later.Close()
	if err := later.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	m.ask(t, `{"execute":"add-fd","arguments":{"fdset-id":3}}`, int(later.Fd()))
	m.ask(t, `{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"later","filename":"/dev/fdset/3","locking":"on"}}`, 0)
	m.ask(t, `{"execute":"blockdev-reopen","arguments":{"options":[{"driver":"raw","node-name":"d","file":"later"}]}}`, 0)
}

func checkRights(t *testing.T, pid, uid int) {
	id := strconv.Itoa(uid)
	ids, none := strings.Join([]string{id, id, id, id}, "\t"), "0000000000000000"
	got := status(t, pid)
	for key, want := range map[string]string{
		"Uid": ids, "Gid": ids, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
	} {
		if got[key] != want {
			t.Errorf("%s is %q, not %q", key, got[key], want)
		}
	}
	if n := strings.Fields(got["NSpid"]); len(n) < 2 || n[len(n)-1] != "1" {
		t.Errorf("it is process %v of its namespace, not 1", n)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("it may dump core: %v\n%s", err, limits)
	}
	sid, err := unix.Getsid(pid)
	if ours, _ := unix.Getsid(0); err != nil || sid == ours {
		t.Errorf("it is in our session: %v", err)
	}
}

func checkNamespaces(t *testing.T, pid int) {
	for _, kind := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		if err := apart(pid, []string{kind}); err != nil {
			t.Error(err)
		}
	}
	// An interface that is down is all of its network.
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), ":"); n != 1 {
		t.Errorf("it has %d network interfaces:\n%s", n, b)
	}
}

func checkMounts(t *testing.T, pid int, j *Jail, disk string) {
	want := map[string]bool{"/": true, "/dev": true, "/proc": true, disk: true}
	for _, b := range j.setup().Binds {
		want[b.To] = true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		at, options := f[4], strings.Split(f[5], ",")
		if !want[at] {
			t.Errorf("it has a mount at %s", at)
		}
		delete(want, at)
		if !slices.Contains(options, "nosuid") || at != "/dev" && !slices.Contains(options, "nodev") {
			t.Errorf("%s is mounted with %v", at, options)
		}
		if ro := slices.Contains(options, "ro"); ro == (at == disk) {
			t.Errorf("%s is mounted with %v", at, options)
		}
		if slices.Contains(options, "rw") && !slices.Contains(options, "noexec") {
			t.Errorf("%s can be written and run: %v", at, options)
		}
	}
	for at := range want {
		t.Errorf("it lacks a mount at %s", at)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/dev", pid))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err != nil || !slices.Equal(names, []string{"null", "urandom"}) {
		t.Errorf("its devices are %v: %v", names, err)
	}
}

func checkDescriptors(t *testing.T, pid int, disk string) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		switch {
		case err != nil: // closed meanwhile
		case to == "/dev/null", to == disk, strings.HasPrefix(to, "anon_inode:"), strings.HasPrefix(to, "pipe:"), strings.HasPrefix(to, "socket:"):
		case strings.Contains(to, "memory"), strings.HasPrefix(to, "/memfd:"):
		default:
			t.Errorf("descriptor %s is %s", e.Name(), to)
		}
	}
}

func checkGroup(t *testing.T, pid int, j *Jail) {
	if !j.group.holds(pid) {
		t.Errorf("it is not in %v", j.group.dirs())
	}
	if dir, ok := j.group.dir("memory"); ok {
		file := "memory.max"
		if !j.pool.tree.places["memory"].v2 {
			file = "memory.limit_in_bytes"
		}
		if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(512<<20) {
			t.Errorf("its memory limit is %q: %v", b, err)
		}
	}
}

// checkReadable reads as vmm.RAM does: as root, from outside.
func checkReadable(t *testing.T, pid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "-")
	addr, err := strconv.ParseUint(first, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: 4}}, []unix.RemoteIovec{{Base: uintptr(addr), Len: 4}}, 0)
	if err != nil || n != 4 || string(buf[1:]) != "ELF" {
		t.Errorf("reading its memory: %d bytes, %q: %v", n, buf, err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 8), int64(addr/4096*8)); err != nil {
		t.Errorf("reading its page map: %v", err)
	}
}
