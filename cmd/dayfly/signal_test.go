package main

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

// started is the program while it runs.
type started struct {
	*exec.Cmd
	pipe io.Closer
	out  *bufio.Reader
	errs bytes.Buffer
}

// start runs the program with the script as its workspace's command and returns
// once the script has said "ready".
func start(t *testing.T, script string, args ...string) *started {
	t.Helper()
	needs.Root(t)
	args = append(append([]string{"run", "-u", "root"}, args...), fakehost.Base, "sh", "-c", script)
	s := &started{Cmd: exec.CommandContext(t.Context(), "dayfly", args...)}
	s.Env = append(s.Environ(), "DAYFLY_STATE="+t.TempDir(), "DAYFLY_HOST=none")
	s.Stderr = &s.errs
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.pipe, s.out = out, bufio.NewReader(out)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	s.hears(t, "ready")
	return s
}

func (s *started) hears(t *testing.T, want string) {
	t.Helper()
	if line, err := s.out.ReadString('\n'); strings.TrimSpace(line) != want {
		_ = s.Wait()
		t.Fatalf("it said %q, %v, want %q; stderr: %s", line, err, want, &s.errs)
	}
}

func (s *started) send(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func (s *started) ends(t *testing.T, code int) {
	t.Helper()
	_, _ = io.Copy(io.Discard, s.out)
	_ = s.Wait()
	if got := s.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d; stderr: %s", got, code, &s.errs)
	}
}

// waiting is a script that goes on until something ends it.
const waiting = "echo ready; while :; do sleep 0.01; done"

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := start(t, waiting)
			s.send(t, sig)
			s.ends(t, exitSignalled+int(sig))
		})
	}
}

func TestCommandMayHandleSignals(t *testing.T) {
	t.Parallel()
	s := start(t, "trap 'echo caught' TERM; trap 'exit 7' USR1; "+waiting)
	s.send(t, syscall.SIGTERM)
	s.hears(t, "caught")
	s.send(t, syscall.SIGUSR1)
	s.ends(t, 7)
}

func TestSecondInterruptSoonEndsWhatIgnoresThem(t *testing.T) {
	t.Parallel()
	s := start(t, "trap 'echo caught' INT; "+waiting)
	s.send(t, syscall.SIGINT)
	s.hears(t, "caught")
	s.send(t, syscall.SIGINT)
	s.ends(t, 130)
}

func TestInterruptedStartEnds(t *testing.T) {
	t.Parallel()
	c := exec.CommandContext(t.Context(), "dayfly", "run", "--log-level", "debug", fakehost.Slow)
	c.Env = append(c.Environ(), "DAYFLY_STATE="+t.TempDir(), "DAYFLY_HOST=none", "DAYFLY_TEST_SAY=1")
	errs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(errs)
	if line, err := lines.ReadString('\n'); line != "starting\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(lines)
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 130 || !bytes.Contains(rest, []byte("interrupted by SIGINT")) {
		t.Errorf("exit code %d; stderr: %s", code, rest)
	}
}

func TestClosedOutputEndsTheCommand(t *testing.T) {
	t.Parallel()
	s := start(t, "echo ready; yes")
	s.hears(t, "y")
	_ = s.pipe.Close()
	_ = s.Wait()
	if code := s.ProcessState.ExitCode(); code != 141 {
		t.Errorf("exit code %d; stderr: %s", code, &s.errs)
	}
}
