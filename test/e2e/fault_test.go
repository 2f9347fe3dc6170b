package e2e

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
)

// running starts a workspace whose command prints "up" and then waits for its
// input to end, and returns when that was seen.
func running(t *testing.T, state string, flags ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	args := append(append([]string{"run", "-i"}, flags...), "base", "--", "sh", "-c", "echo up; cat")
	p := &process{cmd: command(t, ctx, state, args...), cancel: cancel}
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	if line, err := p.out.ReadString('\n'); line != "up\n" {
		_ = p.cmd.Wait()
		t.Fatalf("it printed %q: %v; stderr: %s", line, err, &p.stderr)
	}
	return p
}

type process struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// end waits for the command and returns its exit code. One that does not end is killed.
func (p *process) end() int {
	defer time.AfterFunc(patience, p.cancel).Stop()
	_, _ = io.Copy(io.Discard, p.out)
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func TestKilledVMMIsReported(t *testing.T) {
	t.Parallel()
	state := newState(t)
	p := running(t, state)
	vmms := processes(t, state)
	if len(vmms) != 1 {
		t.Fatalf("VMMs: %q", vmms)
	}
	if err := unix.Kill(pidOf(t, vmms[0]), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.end(); code != 125 || !strings.Contains(p.stderr.String(), "VMM process ended") {
		t.Errorf("exit %d; stderr: %s", code, &p.stderr)
	}
}

func TestGuestPanicIsReportedWithItsConsole(t *testing.T) {
	t.Parallel()
	state := newState(t)
	r := dayfly(t, state, "run", "-u", "root", "base", "--", "sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 100")
	if r.code != 125 || !strings.Contains(r.stderr, "panicked") || !strings.Contains(r.stderr, "sysrq") {
		t.Errorf("run = %+v", r)
	}
}

func TestGuestPowerOffIsReported(t *testing.T) {
	t.Parallel()
	state := newState(t)
	r := dayfly(t, state, "run", "-u", "root", "base", "--", "sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger; sleep 100")
	if r.code != 125 || !strings.Contains(r.stderr, "powered itself off") {
		t.Errorf("run = %+v", r)
	}
}

// TestSignalsReachTheCommand: what a terminal or a supervisor sends is passed on.
func TestSignalsReachTheCommand(t *testing.T) {
	t.Parallel()
	state := newState(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		p := running(t, state)
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := p.end(); code != 128+int(sig) {
			t.Errorf("%v: exit %d; stderr: %s", sig, code, &p.stderr)
		}
	}
}

// stages are the rows of the startup table, as the log names them.
var stages = []string{"home", "image", "kernel", "disk", "template", "vmm", "boot", "init"}

// startedUpTo starts a workspace and returns once the stage is done. logs is
// what follows in the log.
func startedUpTo(t *testing.T, state, stage string) (c *exec.Cmd, logs io.Reader) {
	t.Helper()
	c = command(t, t.Context(), state, "run", "--log-level", "debug", "base", "--", "sleep", "1000")
	logs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "stage="+stage+" ") {
			return c, logs
		}
	}
	t.Fatalf("it ended before stage %s was done: %v", stage, c.Wait())
	return nil, nil
}

// TestInterruptAtAnyMomentLeavesNothing interrupts the command after each stage.
func TestInterruptAtAnyMomentLeavesNothing(t *testing.T) {
	t.Parallel()
	state := newState(t)
	for _, stage := range stages {
		c, logs := startedUpTo(t, state, stage)
		if err := c.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(logs)
		if err := c.Wait(); err == nil {
			t.Errorf("%s: it ended well", stage)
		}
		assertNothingLeft(t, state)
		if t.Failed() {
			t.Fatalf("after an interrupt in stage %s\n%s", stage, rest)
		}
	}
}

// TestKilledAtEveryStageIsSwept kills dayfly with -9 after each stage. The VMM
// goes with it at once; the next process clears away the rest.
func TestKilledAtEveryStageIsSwept(t *testing.T) {
	t.Parallel()
	state := newState(t)
	for _, stage := range stages {
		c, logs := startedUpTo(t, state, stage)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, logs) // ends when nobody holds the pipe any more
		_ = c.Wait()
		if r := dayfly(t, state, "ls"); r.code != 0 {
			t.Fatalf("%s: ls = %+v", stage, r)
		}
		assertNothingLeft(t, state)
		if t.Failed() {
			t.Fatalf("after a kill in stage %s", stage)
		}
	}
}

func TestTenAtOnce(t *testing.T) { //nolint:paralleltest // as many machines as it starts are enough for one host
	state := newState(t)
	var g errgroup.Group
	for range 10 {
		g.Go(func() error {
			r := dayfly(t, state, "run", "--memory", "256M", "base", "--", "sh", "-c", "hostname; cat /proc/sys/kernel/random/uuid")
			if r.code != 0 {
				t.Errorf("run = %+v", r)
			}
			return nil
		})
	}
	_ = g.Wait()
}

func TestFullGuestDiskIsTheGuestsTrouble(t *testing.T) {
	t.Parallel()
	state := newState(t)
	out := guest(t, state, "dd if=/dev/zero of=/home/user/big bs=1M count=200 2>&1; rm /home/user/big; echo alive", "--disk", "64M")
	if !strings.Contains(out, "No space left") || !strings.HasSuffix(out, "alive\n") {
		t.Errorf("it printed %s", out)
	}
}

// TestFullHostDiskFailsCleanly gives the state directory a file system with room
// for a start but not for what the guest writes, and then not even for a start.
func TestFullHostDiskFailsCleanly(t *testing.T) {
	needs.Mount(t)
	t.Parallel()
	prepared := newState(t)
	small := filepath.Join(prepared, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ size, script, want string }{
		{"24m", "dd if=/dev/urandom of=/home/user/big bs=1M count=64 conv=fsync || echo failed; echo alive", "failed"},
		{"64k", "echo alive", ""},
	} {
		if err := unix.Mount("small", small, "tmpfs", 0, "size="+tc.size); err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() { _ = unix.Unmount(small, unix.MNT_DETACH) }()
			for _, sub := range []string{"images", "kernels"} {
				if err := os.Symlink(filepath.Join(prepared, sub), filepath.Join(small, sub)); err != nil {
					t.Fatal(err)
				}
			}
			r := dayfly(t, small, "run", "base", "--", "sh", "-c", tc.script)
			switch {
			case tc.want != "" && (r.code != 0 || r.stdout != tc.want+"\nalive\n"):
				t.Errorf("on %s: %+v", tc.size, r)
			case tc.want == "" && (r.code != 125 || !strings.Contains(r.stderr, "space")):
				t.Errorf("on %s: %+v", tc.size, r)
			}
			assertNothingLeft(t, small)
		}()
	}
}

func TestMissingVMMTeaches(t *testing.T) {
	t.Parallel()
	state := newState(t)
	c := command(t, t.Context(), state, "run", "base", "--", "true")
	c.Env = append(c.Env, "PATH=/nonexistent")
	out, _ := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 125 || !bytes.Contains(out, []byte("qemu-system-x86")) || !bytes.Contains(out, []byte("template:")) {
		t.Errorf("exit %d: %s", c.ProcessState.ExitCode(), out)
	}
}
