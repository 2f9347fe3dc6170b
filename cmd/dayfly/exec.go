package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

type execFlags struct {
	interactive, tty bool
	env, envFiles    []string
	workdir, user    string
	timeout          time.Duration
}

const execLong = `Run a command in a workspace that is there already.

Exit codes and signals are as with dayfly run. Without a server the workspace
must be one that was kept: a stopped one is started from its disk for
the command, and stopped after it; a paused one goes on, and is paused after it.`

func (a *app) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] WORKSPACE [--] CMD [ARG...]",
		Short: "Run a command in a workspace",
		Long:  execLong,
		Example: `  dayfly exec -it mayfly bash
  dayfly exec mayfly -- cat /etc/os-release`,
		Annotations: forCommands,
		Args:        atLeast(2, "name a workspace and a command"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.execIn(c.Context(), &f, args)
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on to the command")
	fl.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set `NAME=VALUE`; NAME alone copies the variable of the caller")
	fl.StringArrayVar(&f.envFiles, "env-file", nil, "set what is in `FILE`, one NAME=VALUE a line")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` to start the command in (default: the workspace's)")
	fl.StringVarP(&f.user, "user", "u", "", "`USER` to run the command as (default: the workspace's)")
	fl.DurationVar(&f.timeout, "timeout", 0, "kill the command after `DURATION`, such as 30s; the exit code is then 124")
	return cmd
}

func (a *app) execIn(ctx context.Context, f *execFlags, args []string) (err error) {
	id, err := ref(args[0])
	if err != nil {
		return err
	}
	env, err := environment(f.envFiles, f.env, a.lookupEnv)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	line := afterDashes(args[1:])
	if len(line) == 0 {
		return dayfly.Errorf(dayfly.Invalid, "no command: name one after the workspace")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	at, err := a.attach(cancel, f.interactive, f.tty)
	if err != nil {
		return err
	}
	defer at.Close()
	if a.inside() {
		ws, err := at.client.Workspaces.Start(ctx, id)
		if err != nil {
			return cause(ctx, err)
		}
		id = ws.ID
		defer func() { err = errors.Join(err, putBack(at.client, ws)) }()
	}
	late := &exitError{exitTimeout, fmt.Errorf("the time is up: %s passed", f.timeout)}
	var killed atomic.Bool
	if f.timeout > 0 {
		timer := time.AfterFunc(f.timeout, func() {
			killed.Store(true)
			at.relay.kill()
			cancel(late)
		})
		defer timer.Stop()
	}
	exit, err := at.run(ctx, id, client.Command{
		Path: line[0], Args: line[1:], Env: env, Dir: f.workdir, User: f.user,
	})
	switch {
	case err == nil && killed.Load():
		return late
	case err == nil && exit.Code != 0:
		return &exitError{code: exit.Code}
	}
	return err
}

// putBack stops a workspace that was started for one command, or pauses one
// that was paused: its memory must not be lost to a look into it.
func putBack(c *client.Client, ws dayfly.Workspace) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	back := c.Workspaces.Stop
	if ws.StartKind == dayfly.Resume {
		back = c.Workspaces.Pause
	}
	_, err := back(ctx, ws.ID)
	if dayfly.KindOf(err) == dayfly.Conflict { // it ended by itself
		return nil
	}
	return err
}
