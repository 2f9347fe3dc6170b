package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// attachment is a command in a workspace with this process's streams,
// terminal and signals connected to it.
type attachment struct {
	app         *app
	client      *client.Client
	interactive bool // standard input goes to the command
	tty         *terminal
	relay       *relay

	startedAt, firstOutput time.Duration // since the program began; 0: not yet
}

// attach prepares to run a command: the terminal is made raw where it is to
// be, signals are taken over, and there is a client. Close gives all back.
func (a *app) attach(cancel context.CancelCauseFunc, interactive, tty bool) (*attachment, error) {
	at := &attachment{app: a, interactive: interactive}
	if tty {
		t, err := newTerminal(a.stdin, a.stdout, interactive)
		if err != nil {
			return nil, dayfly.Errorf(dayfly.Invalid, "%w", err)
		}
		at.tty = t
	}
	at.relay = newRelay(cancel, at.tty)
	c, err := a.connect()
	if err != nil {
		at.Close()
		return nil, err
	}
	at.client = c
	return at, nil
}

// Close gives back the terminal and the signals.
func (at *attachment) Close() {
	at.tty.Close()
	at.relay.Close()
	if at.client != nil {
		_ = at.client.Close()
	}
}

// run runs a command in a workspace and returns its exit. The error is for the
// user: it has the exit code that a shell would have.
func (at *attachment) run(ctx context.Context, id dayfly.ID, cmd client.Command) (client.Exit, error) {
	// What the command says is held until signals go to it: who has read its first
	// line may send one.
	bound := make(chan struct{})
	cmd.Stdout = &firstWrite{w: at.app.stdout, at: &at.firstOutput, after: bound}
	cmd.Stderr = &firstWrite{w: at.app.stderr, at: &at.firstOutput, after: bound}
	if at.interactive {
		cmd.Stdin = at.app.stdin
	}
	if at.tty != nil {
		size := at.tty.Size()
		cmd.TTY = &size
		if term := at.app.getenv("TERM"); term != "" {
			cmd.Env = withDefault(cmd.Env, "TERM", term)
		}
	}
	p, err := at.client.Start(ctx, id, cmd)
	if err != nil {
		return client.Exit{}, at.notStarted(ctx, id, err)
	}
	at.startedAt = time.Since(began)
	at.relay.to(p)
	close(bound)
	if at.tty != nil && at.tty.Size() != *cmd.TTY { // it changed while nobody was told
		_ = p.Resize(ctx, at.tty.Size())
	}
	exit, err := p.Wait()
	if err != nil {
		return exit, at.notEnded(ctx, id, err)
	}
	return exit, nil
}

func withDefault(env map[string]string, name, value string) map[string]string {
	with := map[string]string{name: value}
	for k, v := range env {
		with[k] = v
	}
	return with
}

func (at *attachment) notStarted(ctx context.Context, id dayfly.ID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if code, ok := client.ExitCode(err); ok {
		return &exitError{code, err}
	}
	if dayfly.KindOf(err) == dayfly.Unavailable {
		return at.why(id, err)
	}
	return err
}

// notEnded explains a command whose end was not seen.
func (at *attachment) notEnded(ctx context.Context, id dayfly.ID, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.EPIPE):
		// Whoever read our output is gone. A command of this machine would have
		// got SIGPIPE and nobody would have been told.
		return &exitError{code: exitSignalled + int(syscall.SIGPIPE)}
	case dayfly.KindOf(err) == dayfly.Unavailable:
		return at.why(id, err)
	}
	return err
}

const (
	whyTimeout = 3 * time.Second
	whyEvery   = 50 * time.Millisecond
)

// why asks the server how the workspace of a lost command ended. The server
// may learn of it a moment after us.
func (at *attachment) why(id dayfly.ID, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), whyTimeout)
	defer cancel()
	tick := time.NewTicker(whyEvery)
	defer tick.Stop()
	for {
		ws, getErr := at.client.Workspaces.Get(ctx, id)
		switch {
		case dayfly.KindOf(getErr) == dayfly.NotFound:
			return dayfly.Errorf(dayfly.NotFound, "workspace %s was deleted while the command ran", id)
		case getErr != nil:
			return err
		case ws.State != dayfly.Running && ws.Reason != "":
			return dayfly.Errorf(dayfly.Conflict, "workspace %s: %s", ws.State, ws.Reason)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// firstWrite notes when something was first written, and writes nothing before
// after is closed.
type firstWrite struct {
	w     io.Writer
	at    *time.Duration
	after <-chan struct{}
	once  sync.Once
}

func (f *firstWrite) Write(p []byte) (int, error) {
	<-f.after
	n, err := f.w.Write(p)
	f.once.Do(func() {
		if *f.at == 0 {
			*f.at = time.Since(began)
		}
	})
	return n, err
}
