package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	words "github.com/dayfly/dayfly" // dayfly is a function here
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/test/needs"
)

func TestMain(m *testing.M) {
	jail.Enter() // the nodes of these tests have jails
	needs.HangUps()
	code := m.Run()
	if firstStart.dir != "" {
		_ = os.RemoveAll(firstStart.dir)
	}
	os.Exit(code)
}

// vmmOf is the process of a workspace's machine.
func vmmOf(t *testing.T, state string, id words.ID) int {
	t.Helper()
	for _, p := range processes(t, state) {
		if strings.Contains(p, ":"+filepath.Join(state, "workspaces", string(id))+" ") {
			return pidOf(t, p)
		}
	}
	t.Fatalf("no machine of %s runs", id)
	return 0
}

// TestEveryMachineLivesInAJail, however it came to run: what /proc says of its
// VMM, from outside.
func TestEveryMachineLivesInAJail(t *testing.T) {
	needs.Jail(t)
	t.Parallel()
	state := newState(t)
	s := serve(t, state, "--standby", "1")
	cold, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 256, Cold: true})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[words.StartKind]words.ID{cold.StartKind: cold.ID}
	restored, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 256, MemoryMiB: 256})
	if err != nil {
		t.Fatal(err)
	}
	ids[restored.StartKind] = restored.ID
	if !s.logged(0, has("standby machine ready")) {
		t.Fatal(tailOf(s.log()))
	}
	claimed := s.create(t)
	ws, err := s.Workspaces.Get(t.Context(), claimed)
	if err != nil {
		t.Fatal(err)
	}
	ids[ws.StartKind] = claimed
	fork := words.ID(s.must(t, "fork", string(claimed))[0])
	ids[words.Forked] = fork
	s.must(t, "pause", string(restored.ID))
	if ws, err = s.Workspaces.Resume(t.Context(), restored.ID); err != nil {
		t.Fatal(err)
	}
	ids[ws.StartKind] = ws.ID
	delete(ids, words.Restore) // which is that one
	for _, kind := range []words.StartKind{words.Cold, words.Claim, words.Forked, words.Resume} {
		id, ok := ids[kind]
		if !ok {
			t.Errorf("no machine was started by %s: %v", kind, ids)
			continue
		}
		t.Run(string(kind), func(t *testing.T) { livesInAJail(t, vmmOf(t, state, id)) })
		if out := s.sh(t, id, "echo alive"); out != "alive\n" {
			t.Errorf("%s says %q", kind, out)
		}
	}
	users := map[string]words.ID{}
	for _, id := range ids {
		uid := procStatus(t, vmmOf(t, state, id))["Uid"]
		if other, ok := users[uid]; ok {
			t.Errorf("%s and %s are of one user", id, other)
		}
		users[uid] = id
	}
}

// procStatus is /proc/PID/status by its keys.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		m[key] = strings.Join(strings.Fields(value), " ")
	}
	return m
}

func livesInAJail(t *testing.T, pid int) {
	is := procStatus(t, pid)
	uid, _, _ := strings.Cut(is["Uid"], " ")
	if n, err := strconv.Atoi(uid); err != nil || n < jail.DefaultRange.First || n >= jail.DefaultRange.First+jail.DefaultRange.Count {
		t.Errorf("its user is %s", uid)
	}
	all, none := strings.Join([]string{uid, uid, uid, uid}, " "), "0000000000000000"
	for key, want := range map[string]string{
		"Uid": all, "Gid": all, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
	} {
		if is[key] != want {
			t.Errorf("%s is %q, not %q", key, is[key], want)
		}
	}
	for _, kind := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		ours, ourErr := os.Readlink("/proc/self/ns/" + kind)
		if err != nil || ourErr != nil || theirs == ours {
			t.Errorf("its %s namespace is %s, and ours %s: %v", kind, theirs, ours, errors.Join(err, ourErr))
		}
	}
	jailMounts(t, pid)
	jailFiles(t, pid)
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(groups), "/dayfly/"+uid) {
		t.Errorf("its control groups are %s, %v", groups, err)
	}
}

// jailMounts looks for anything that could be written to but one disk, and for
// the host's own root.
func jailMounts(t *testing.T, pid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	var written []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if slices.Contains(strings.Split(f[5], ","), "rw") {
			written = append(written, f[4])
		}
	}
	if len(written) > 1 || len(written) == 1 && !strings.Contains(written[0], "/workspaces/") {
		t.Errorf("it can write to %v", written)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if slices.Contains([]string{"home", "etc", "boot", "sys", "var", "opt", "sbin"}, e.Name()) && e.IsDir() && !strings.HasPrefix(os.TempDir(), "/"+e.Name()) {
			inside, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/%s", pid, e.Name()))
			outside, hostErr := os.ReadDir("/" + e.Name())
			if err != nil || hostErr != nil || len(inside) >= len(outside) && len(outside) > 0 {
				t.Errorf("it sees the host's /%s", e.Name())
			}
		}
	}
}

func jailFiles(t *testing.T, pid int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if fi, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && fi.IsDir() {
			t.Errorf("it has the directory %s open", to)
		}
		for _, secret := range []string{"master.key", "/key", "record.json", "dayfly.db", "admin.key", "token.key"} {
			if strings.HasSuffix(to, secret) {
				t.Errorf("it has %s open", to)
			}
		}
	}
}

// lacks are the limits that this host does not offer.
func lacks(t *testing.T) []string {
	t.Helper()
	p, err := jail.Open(jail.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return p.Lacks()
}

// groupFile reads a file of a machine's control group.
func groupFile(t *testing.T, pid int, controller, name string) string {
	t.Helper()
	uid, _, _ := strings.Cut(procStatus(t, pid)["Uid"], " ")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if !strings.HasSuffix(f[2], "/dayfly/"+uid) {
			continue
		}
		for _, top := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup/" + f[1], "/sys/fs/cgroup"} {
			if b, err := os.ReadFile(filepath.Join(top, f[2], name)); err == nil {
				return string(b)
			}
		}
	}
	t.Fatalf("process %d has no %s in a control group: %s", pid, name, b)
	return ""
}

// counterOf is a number in a file of the form "name number".
func counterOf(t *testing.T, text, name string) int64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %q", name, text)
	return 0
}

// TestQuarterOfACPUHolds: a guest that computes all the time gets a quarter of
// one, whether its machine was restored or claimed, and the kernel says that it
// wanted more.
func TestQuarterOfACPUHolds(t *testing.T) {
	needs.Jail(t)
	needs.Controller(t, "cpu", lacks(t))
	t.Parallel()
	state := newState(t)
	s := serve(t, state, "--standby", "1")
	if !s.logged(0, has("standby machine ready")) {
		t.Fatal(tailOf(s.log()))
	}
	for _, flags := range [][]string{{"--disk", "256M"}, {"--disk", "256M", "--memory", "256M"}} {
		id := words.ID(s.must(t, append(append([]string{"create", "--cpus", "0.25"}, flags...), "base")...)[0])
		ws, err := s.Workspaces.Get(t.Context(), id)
		if err != nil || ws.Spec.CPUs != 1 || ws.Spec.CPULimit != 0.25 {
			t.Fatalf("the workspace is %+v, %v", ws, err)
		}
		pid := vmmOf(t, state, id)
		throttled := counterOf(t, groupFile(t, pid, "cpu", "cpu.stat"), "nr_throttled")
		used, began := cpuTime(t, pid), time.Now()
		s.sh(t, id, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done")
		part := (cpuTime(t, pid) - used).Seconds() / time.Since(began).Seconds()
		if part > 0.32 { // the period's ends, and what /proc counts in whole ticks
			t.Errorf("%s: it had %.2f of a CPU", ws.StartKind, part)
		}
		if counterOf(t, groupFile(t, pid, "cpu", "cpu.stat"), "nr_throttled") == throttled {
			t.Errorf("%s: it was never held back", ws.StartKind)
		}
		t.Logf("%s: %.2f of a CPU", ws.StartKind, part)
	}
}

// cpuTime is what a process has had of processors.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var sum time.Duration
	for _, ticks := range f[11:13] { // utime and stime, in 1/100 s: proc_pid_stat(5)
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}

// TestGuestThatFillsItsMemoryIsAlone: the guest's own kernel ends what fills it.
// The machine goes on, within what it may have of the host's.
func TestGuestThatFillsItsMemoryIsAlone(t *testing.T) {
	needs.Jail(t)
	needs.Controller(t, "memory", lacks(t))
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	ws, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 256, MemoryMiB: 256})
	if err != nil {
		t.Fatal(err)
	}
	r := s.run(t, "exec", "--timeout", "100s", string(ws.ID), "--", "python3", "-c", "x = b'x' * (1 << 30)")
	if r.code == 0 {
		t.Error("it could have four times its memory")
	}
	if out := s.sh(t, ws.ID, "echo alive"); out != "alive\n" {
		t.Errorf("it says %q", out)
	}
	pid := vmmOf(t, state, ws.ID)
	for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
		if most := groupBytes(t, pid, name); most > 0 {
			if peak := groupBytes(t, pid, strings.NewReplacer("max", "peak", "limit", "max_usage").Replace(name)); peak <= 0 || peak > most {
				t.Errorf("it had %d of %d bytes", peak, most)
			} else {
				t.Logf("at most %d MiB of %d", peak>>20, most>>20)
			}
		}
	}
}

// groupBytes is a size in a file of a control group of memory, or 0.
func groupBytes(t *testing.T, pid int, name string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, top := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
			if b, err := os.ReadFile(filepath.Join(top, f[2], name)); err == nil && strings.Contains(f[2], "/dayfly/") {
				n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
				return n
			}
		}
	}
	return 0
}

// TestKilledVMMSaysWhy, where it wanted more memory than its jail gives: the
// limit is taken down under it.
func TestVMMThatNeedsTooMuchMemoryIsFailedAndSaysSo(t *testing.T) {
	needs.Jail(t)
	needs.Controller(t, "memory", lacks(t))
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	ws, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 256, MemoryMiB: 256, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	bound(t, vmmOf(t, state, ws.ID), 200<<20)
	s.run(t, "exec", string(ws.ID), "--", "python3", "-c", "x = b'x' * (200 << 20)")
	if !s.logged(0, has("state=failed")) {
		t.Fatal(tailOf(s.log()))
	}
	if ws, err = s.Workspaces.Get(t.Context(), ws.ID); err != nil || ws.State != words.Failed || !strings.Contains(ws.Reason, "more memory than it may have") {
		t.Errorf("the workspace is %s: %s; %v", ws.State, ws.Reason, err)
	}
}

// bound sets the memory limit of a machine that runs.
func bound(t *testing.T, pid int, bytes int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, path := range []string{"/sys/fs/cgroup/memory" + f[2] + "/memory.limit_in_bytes", "/sys/fs/cgroup" + f[2] + "/memory.max"} {
			if _, err := os.Stat(path); err == nil && strings.Contains(f[2], "/dayfly/") {
				if err := os.WriteFile(path, []byte(strconv.FormatInt(bytes, 10)), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("process %d has no limit of memory: %s", pid, b)
}

// TestOffIsSaidAloud: machines without jails are said to be that, by the server
// and by doctor.
func TestJailOffIsSaidAloud(t *testing.T) {
	needs.Jail(t)
	t.Parallel()
	s := serve(t, newState(t), "--jail", "off")
	if _, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 256, CPULimit: 0.5}); words.KindOf(err) != words.Unavailable || !strings.Contains(fmt.Sprint(err), "cpu_limit") {
		t.Errorf("a limit without jails: %v", err)
	}
	id := s.create(t)
	if uid := procStatus(t, vmmOf(t, s.state, id))["Uid"]; uid != "0 0 0 0" {
		t.Errorf("its user is %s", uid)
	}
	if !strings.Contains(s.log(), "jails are off") {
		t.Errorf("the server does not say so:\n%s", tailOf(s.log()))
	}
	if r := s.run(t, "doctor"); !strings.Contains(r.stdout, "jails are off") {
		t.Errorf("doctor says %s", r.stdout)
	}
}

// noJailsLeft sweeps what killed owners left of jails, as the next process would,
// and looks whether that was all. A machine of a test beside this one may end
// between the two: what a second sweep removes was no fault.
func noJailsLeft(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	p, err := jail.Open(jail.Options{})
	if err != nil {
		t.Error(err)
		return
	}
	defer p.Close()
	var left map[int64]string
	for range 2 {
		if err := p.Sweep(context.WithoutCancel(t.Context()), nil); err != nil {
			t.Error(err)
		}
		was := left
		left = usersOfTheGone(t)
		maps.DeleteFunc(left, func(uid int64, of string) bool { return was != nil && was[uid] != of })
		if len(left) == 0 {
			return
		}
	}
	for uid, of := range left {
		t.Errorf("the user %d is that of process %s, which is gone", uid, of)
	}
}

// usersOfTheGone are users that nobody has locked, with the ids of processes that
// have them and are no more.
func usersOfTheGone(t *testing.T) map[int64]string {
	t.Helper()
	uids, err := os.Open(filepath.Join(jail.DefaultDir, "uids"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	defer uids.Close()
	const slot = 64 // bytes: see package jail
	b := make([]byte, slot)
	left := map[int64]string{}
	for i := int64(0); ; i++ {
		if n, _ := uids.ReadAt(b, i*slot); n == 0 {
			return left
		}
		lock := unix.Flock_t{Type: unix.F_RDLCK, Start: i * slot, Len: slot}
		if err := unix.FcntlFlock(uids.Fd(), unix.F_OFD_GETLK, &lock); err != nil || lock.Type != unix.F_UNLCK {
			continue // its owner lives
		}
		if n, _ := uids.ReadAt(b, i*slot); n == 0 || b[0] == 0 {
			continue
		}
		pid, _, _ := strings.Cut(string(b), " ")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			left[int64(jail.DefaultRange.First)+i] = pid
		}
	}
}
