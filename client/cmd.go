package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Workspace is one workspace: its commands and files. It holds no connection
// and need not be closed.
type Workspace struct {
	ID dayfly.ID // or the name, or beginning of an id, that it was asked for by

	c *Client
}

// Workspace returns a workspace by its id, its name, or the beginning of its id.
// It asks the server nothing: whether there is such a workspace, the first use says.
func (c *Client) Workspace(ref string) *Workspace { return &Workspace{ID: dayfly.ID(ref), c: c} }

// Cmd is a command in a workspace, prepared or run, in the manner of os/exec. It
// cannot be used again after Run, Output, CombinedOutput or Wait.
type Cmd struct {
	// Path is the program; Args its arguments, without the program.
	Path string
	Args []string

	Env  []string // NAME=VALUE, added to the workspace's environment
	Dir  string   // default: the workspace's
	User string   // name or uid; default: the workspace's
	TTY  *Size    // a terminal, whose output is Stdout; nil: none

	// Stdin is streamed to the command. If it is nil the command reads from
	// /dev/null.
	Stdin io.Reader

	// Stdout and Stderr take output as it comes; nil discards it. If both are the
	// same writer, one write comes at a time.
	Stdout, Stderr io.Writer

	// Process is set by Start.
	Process *Process

	ctx      context.Context //nolint:containedctx // as os/exec has it: it is the life of the command
	ws       *Workspace
	cancel   context.CancelFunc
	watched  chan struct{} // closed when nobody watches ctx any more
	killed   atomic.Bool
	finished bool
}

// Command returns a command that will be run in the workspace. If ctx ends
// before the command, it is killed.
func (w *Workspace) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Path: name, Args: args, ctx: ctx, ws: w}
}

// ExitError is the error of a command that ended with anything but 0.
type ExitError struct {
	Exit
	Stderr []byte // the last of it, where Output ran the command and Stderr was not set
}

// Error says how the command ended.
func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return "signal: " + syscall.Signal(e.Signal).String()
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// Start starts the command and returns once it runs. Call Wait afterwards.
func (c *Cmd) Start() error {
	if c.Process != nil {
		return errors.New("client: the command was started already")
	}
	env, err := environment(c.Env)
	if err != nil {
		return err
	}
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	// The stream outlives ctx for as long as it takes to hear of the start, as
	// what has no pid cannot be killed, and of the end.
	life, cancel := context.WithCancel(context.WithoutCancel(c.ctx))
	stop := context.AfterFunc(c.ctx, func() {
		_ = pause(life, killTime)
		cancel()
	})
	p, err := c.ws.c.Start(life, c.ws.ID, Command{
		Path: c.Path, Args: c.Args, Env: env, Dir: c.Dir, User: c.User, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr, TTY: c.TTY,
	})
	if !stop() && err == nil { // ctx ended meanwhile
		kill(p, cancel)
		err = c.ctx.Err()
	}
	if err != nil {
		cancel()
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		return err
	}
	c.Process, c.cancel, c.watched = p, cancel, make(chan struct{})
	go c.watch()
	return nil
}

func environment(env []string) (map[string]string, error) {
	vars := map[string]string{}
	for _, kv := range env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, dayfly.Errorf(dayfly.Invalid, "env %q is not NAME=VALUE", kv)
		}
		vars[k] = v
	}
	return vars, nil
}

// killTime is how long a killed command is waited for.
const killTime = 10 * time.Second

// watch kills the command when ctx ends.
func (c *Cmd) watch() {
	defer close(c.watched)
	select {
	case <-c.Process.Done():
	case <-c.ctx.Done():
		c.killed.Store(true)
		kill(c.Process, c.cancel)
	}
}

// kill kills a command; if it cannot be heard of that it ended, its stream is
// ended by give up.
func kill(p *Process, giveUp func()) {
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	_ = p.Signal(ctx, wire.SIGKILL)
	select {
	case <-p.Done():
	case <-ctx.Done():
		giveUp()
	}
}

// Wait waits for a command that was started to end and its output to be
// written. The error is an *ExitError where it ended with anything but 0, that
// of ctx where it was killed for it, else as of Process.Wait.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return errors.New("client: the command was not started")
	}
	if c.finished {
		return errors.New("client: the command was waited for already")
	}
	c.finished = true
	exit, err := c.Process.Wait()
	<-c.watched
	c.cancel()
	switch {
	case c.killed.Load():
		return c.ctx.Err()
	case err != nil:
		return err
	case exit.Code != 0:
		return &ExitError{Exit: exit}
	}
	return nil
}

// Run starts the command and waits for it to end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns what it wrote to its standard output. An
// *ExitError holds the last of its standard error, unless Stderr is set.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("client: Stdout is set already")
	}
	var out bytes.Buffer
	last := &tail{}
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = last
	}
	err := c.Run()
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = last.b
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns what it wrote to its standard
// output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("client: Stdout or Stderr is set already")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// tail keeps the last of what is written to it.
type tail struct{ b []byte }

const maxStderr = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxStderr; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}
