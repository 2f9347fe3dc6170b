package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHelloFromPython(t *testing.T) {
	t.Parallel()
	state := newState(t)
	r := dayfly(t, state, "run", "base", "--", "python3", "-c", `print("hello")`)
	if r.code != 0 || r.stdout != "hello\n" {
		t.Fatalf("run = %+v", r)
	}
}

// TestDistributionKernelServes: what a fresh installation boots, before a tuned
// kernel was compiled.
func TestDistributionKernelServes(t *testing.T) {
	t.Parallel()
	state := newState(t)
	tuned, err := filepath.Glob(filepath.Join(state, "kernels", "kernels", "*-dayfly-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range tuned {
		if err := os.RemoveAll(k); err != nil {
			t.Fatal(err)
		}
	}
	if out := guest(t, state, "uname -r"); !strings.Contains(out, "cloud-amd64") {
		t.Errorf("it booted %s", out)
	}
}

// TestWorkspaceIsItsOwnMachine asks one workspace many questions, as each boot
// takes seconds under emulation.
func TestWorkspaceIsItsOwnMachine(t *testing.T) {
	t.Parallel()
	state := newState(t)
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	const script = `
echo kernel $(uname -r)
echo user $(id -un) $(id -u) $(id -gn)
echo home $HOME
echo cwd $PWD
echo env $COLOUR $EMPTY.
echo host $(hostname) $(cat /etc/hostname)
echo sudo $(sudo id -un)
echo machine $(cat /etc/machine-id)
echo links $(ls /sys/class/net)
echo lo $(cat /sys/class/net/lo/flags)
echo root $(stat -f -c %T /)
echo pid1 $(sudo cat /proc/1/comm)
echo year $(date +%Y)
touch /home/user/mine && echo wrote
( exec 3<>/dev/tcp/127.0.0.1/1 ) 2>/dev/null || echo refused
[ -w /dev/shm ] && [ -c /dev/ptmx ] && [ -e /dev/fd/0 ] && echo devices
`
	r := dayfly(t, state, "run", "--name", "mayfly", "-e", "COLOUR=green", "-e", "EMPTY=", "-w", "/tmp", "base", "--", "bash", "-c", script)
	if r.code != 0 {
		t.Fatalf("run = %+v", r)
	}
	got := map[string]string{}
	for line := range strings.Lines(r.stdout) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[k] = v
	}
	for k, want := range map[string]string{
		"user": "user 1000 user", "home": "/home/user", "cwd": "/tmp", "env": "green .",
		"host": "mayfly mayfly", "sudo": "root", "links": "lo", "root": "overlayfs",
		"wrote": "", "refused": "", "devices": "",
	} {
		if v, ok := got[k]; !ok || v != want {
			t.Errorf("%s is %q, want %q", k, v, want)
		}
	}
	if k := got["kernel"]; k == "" || k == unix.ByteSliceToString(host.Release[:]) {
		t.Errorf("the guest's kernel is %q, the host's too", k)
	}
	if len(got["machine"]) != 32 {
		t.Errorf("machine-id is %q", got["machine"])
	}
	if y := got["year"]; y < "2026" {
		t.Errorf("the guest's clock says it is %q", y)
	}
	if t.Failed() {
		t.Log(r.stdout, r.stderr)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	state := newState(t)
	for _, tc := range []struct {
		name string
		args []string
		want int
		says string
	}{
		{"the command's own", []string{"base", "--", "sh", "-c", "exit 42"}, 42, ""},
		{"killed by a signal", []string{"base", "--", "sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{"command not found", []string{"base", "--", "no-such-command"}, 127, "no-such-command"},
		{"cannot be invoked", []string{"base", "--", "/etc/passwd"}, 126, "/etc/passwd"},
		{"timed out", []string{"--timeout", "1s", "base", "--", "sleep", "1000"}, 124, "time"},
		{"unknown image", []string{"no-such-image:1", "--", "true"}, 125, "no-such-image"},
		{"too little memory", []string{"--memory", "16M", "base", "--", "true"}, 125, "memory"},
		{"unknown user", []string{"-u", "nobody-by-that-name", "base", "--", "true"}, 125, "nobody-by-that-name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := dayfly(t, state, append([]string{"run"}, tc.args...)...)
			if r.code != tc.want || !strings.Contains(r.stderr, tc.says) {
				t.Errorf("exit %d, want %d; stderr: %s", r.code, tc.want, r.stderr)
			}
		})
	}
}

func TestStdinArrivesWholeAndEnds(t *testing.T) {
	t.Parallel()
	state := newState(t)
	in := make([]byte, 8<<20)
	_, _ = rand.Read(in)
	r := dayflyIn(t, state, bytes.NewReader(in), "run", "-i", "base", "--", "sha256sum")
	sum := sha256.Sum256(in)
	if r.code != 0 || !strings.HasPrefix(r.stdout, hex.EncodeToString(sum[:])) {
		t.Fatalf("run = %+v", r)
	}
}

// TestFloodLosesNothing: a guest that writes faster than anybody reads is slowed
// down, not cut short, and the streams stay apart.
func TestFloodLosesNothing(t *testing.T) {
	t.Parallel()
	state := newState(t)
	const lines = 2_000_000
	r := dayfly(t, state, "run", "base", "--", "sh", "-c", "seq 2000000; echo end >&2")
	if r.code != 0 || r.stderr != "end\n" {
		t.Fatalf("exit %d, stderr %q", r.code, r.stderr)
	}
	if n := strings.Count(r.stdout, "\n"); n != lines || !strings.HasSuffix(r.stdout, "\n2000000\n") {
		t.Fatalf("%d lines of %d arrived, the last %q", n, lines, r.stdout[max(0, len(r.stdout)-20):])
	}
}

func TestTwoWorkspacesShareNothing(t *testing.T) {
	t.Parallel()
	state := newState(t)
	const script = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c16 /dev/urandom | od -An -tx1; cat /tmp/mark 2>/dev/null; echo left > /tmp/mark"
	a, b := guest(t, state, script), guest(t, state, script)
	for i, line := range strings.Split(strings.TrimSpace(a), "\n") {
		if other := strings.Split(strings.TrimSpace(b), "\n"); i >= len(other) || line == other[i] {
			t.Errorf("line %d is %q in both", i, line)
		}
	}
	if strings.Contains(b, "left") {
		t.Error("the second workspace found a file of the first")
	}
	if _, err := os.Stat(state + "/master.key"); err != nil {
		t.Error(err)
	}
}
