package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
)

// commandGrace is how long a command that is told to end may take for it.
const commandGrace = 20 * time.Second

// command makes a dayfly command over the bed. When ctx ends it is told to end,
// and takes down what it has running. It is in a process group of its own, as a
// Ctrl-C would else reach it twice.
func (b bed) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, b.dayfly, args...)
	c.Args = append(c.Args, "--state", b.dir)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = commandGrace
	return c
}

// start is one way to start a workspace with dayfly run.
type start struct {
	kind     dayfly.StartKind // that it must turn out to be
	prepared bool             // as must this: the machine had the image's root already
	diskMiB  int
	host     string // of a server, or none
}

// run takes the time from the start of the command to the first output of echo,
// and sees that it was the start that was to be measured and ended well.
func (b bed) run(ctx context.Context, s start) (time.Duration, error) {
	c := b.command(ctx, "run", "--json", "--pull", "never", "--accel", b.accel, "--disk", strconv.Itoa(s.diskMiB)+"M")
	if s.kind == dayfly.Cold {
		c.Args = append(c.Args, "--cold")
	}
	// None is one in the command itself, whichever runs in the same directory.
	c.Args = append(c.Args, "--host", cmp.Or(s.host, "none"))
	c.Args = append(c.Args, b.image, "--", "echo", "hello")
	var said bytes.Buffer
	c.Stderr = &said
	took, err := firstOutput(c)
	if err != nil {
		return took, fmt.Errorf("%w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return took, s.check(said.Bytes())
}

// check reads the report of a run.
func (s start) check(said []byte) error {
	var report struct{ Workspace dayfly.Workspace }
	lines := bytes.Split(bytes.TrimSpace(said), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &report); err != nil {
		return fmt.Errorf("report of the run: %w: %q", err, said)
	}
	ws := report.Workspace
	if ws.StartKind != s.kind {
		return fmt.Errorf("it was a %s start and no %s: %s", ws.StartKind, s.kind, ws.StartNote)
	}
	if s.kind != dayfly.Cold && wasPrepared(ws.Timeline) != s.prepared {
		return fmt.Errorf("it was a %s with the root already there: %t, which was to be measured: %t", s.kind, !s.prepared, s.prepared)
	}
	return nil
}

// wasPrepared reports whether the guest did not need to mount its root.
func wasPrepared(t dayfly.Timeline) bool {
	return !slices.ContainsFunc(t, func(s dayfly.Stage) bool { return s.Within == "init" && s.Name == "root" })
}

// firstOutput runs a command that prints hello and returns when that arrived.
func firstOutput(c *exec.Cmd) (time.Duration, error) {
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := c.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	took := time.Since(began)
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("it printed %q", line)
	}
	return took, errors.Join(err, c.Wait())
}
