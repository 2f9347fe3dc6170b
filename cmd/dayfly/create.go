package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// createFlags are the flags of dayfly create.
type createFlags struct {
	run runFlags // those that dayfly run has as well

	timeout               seconds
	onTimeout             string
	idlePause, idleStop   seconds
	restart               restartFlag
	readyCommand          string
	readyTimeout          seconds
	metadata              pairs
	removeOnExit, imageCm bool
	wait, once            string
}

const createLong = `Make a workspace that stays, and print its id once it is ready.

CMD is its main command, started with it; with --image-command it is the image's
own entrypoint, with CMD as its arguments. Without either nothing is started:
dayfly exec and dayfly shell do. Flags end at the image's name.

Rules say how it ends. --timeout: so long after each start. --idle-pause and
--idle-stop: so long after the last use, which is a call to it or a keepalive.
--restart: what to do when its command, or its machine, ends by itself.

With --idempotency-key the same command line may be repeated, by a script that
was cut off, and makes one workspace.`

const createExample = `  dayfly create --name mayfly --timeout 1h base
  dayfly create --restart on-failure:5 --metadata team=ci alpine:3.22 -- crond -f
  dayfly create --image-command --ready-cmd 'curl -fs localhost:8080' app
  dayfly create --idle-pause 10m --snapshot before-tests`

func (a *app) createCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create [flags] {IMAGE | --snapshot SNAPSHOT} [-- CMD [ARG...]]",
		Short: "Make a workspace that stays",
		Long:  createLong, Example: createExample,
		Args:              f.run.source,
		ValidArgsFunction: a.completeRun,
	}
	f.add(a, cmd)
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error { return a.create(c, &f, out, args) }
	return cmd
}

// add adds the flags to cmd.
func (f *createFlags) add(a *app, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	f.run.machineFlags(a, cmd)
	fl.BoolVar(&f.run.keep, "keep", false, "never delete it unasked: without --on-timeout it is stopped then")
	fl.Var(&f.timeout, "timeout", "end it `DURATION` after each start, such as 1h; 0: never")
	fl.StringVar(&f.onTimeout, "on-timeout", "", "what becomes of it then: delete, stop or pause (default delete; stop with --keep)")
	fl.Var(&f.idlePause, "idle-pause", "pause it when nobody has used it for `DURATION`, such as 10m")
	fl.Var(&f.idleStop, "idle-stop", "stop it when nobody has used it for `DURATION`, such as 2h")
	fl.Var(&f.restart, "restart", "after it has ended by itself: no, on-failure, always or unless-stopped; a bound may follow, as in on-failure:5")
	fl.StringVar(&f.readyCommand, "ready-cmd", "", "it is ready once this shell `COMMAND` exits with 0; it is run every second")
	fl.Var(&f.readyTimeout, "ready-timeout", "the start has failed if it is not ready after `DURATION` (default 1m)")
	fl.BoolVar(&f.removeOnExit, "rm-on-exit", false, "delete it when its main command has ended")
	fl.Var(&f.metadata, "metadata", "note `KEY=VALUE`, which dayfly ls finds")
	fl.BoolVar(&f.imageCm, "image-command", false, "the main command is the image's own, with CMD as its arguments")
	fl.StringVar(&f.wait, "wait", string(dayfly.WaitReady), "return once it is `ready`, or as soon as it is certain to be made: created")
	fl.StringVar(&f.once, onceName, "", onceUse)
	completeWords(cmd, "on-timeout", dayfly.DeleteIt, dayfly.StopIt, dayfly.PauseIt)
	completeWords(cmd, "restart", dayfly.RestartNo, dayfly.RestartOnFailure, dayfly.RestartAlways, dayfly.RestartUnlessStopped)
	completeWords(cmd, "wait", dayfly.WaitReady, dayfly.WaitCreated)
}

// The flag of whatever a script makes.
const (
	onceName = "idempotency-key"
	onceUse  = "with the same `KEY` within a day, return what was made the first time"
)

func onceFlag(cmd *cobra.Command) *string { return cmd.Flags().String(onceName, "", onceUse) }

// spec is what the flags ask for.
func (f *createFlags) spec(a *app, c *cobra.Command, args []string) (dayfly.Spec, error) {
	image, command := f.run.split(args)
	spec, err := f.run.spec(a, c, image)
	if err != nil {
		return spec, err
	}
	if err := f.check(); err != nil {
		return spec, err
	}
	spec.Timeout, spec.OnTimeout = int(f.timeout), dayfly.Action(f.onTimeout)
	if spec.Keep && spec.Timeout > 0 && spec.OnTimeout == "" {
		spec.OnTimeout = dayfly.StopIt
	}
	spec.Idle = dayfly.Idle{PauseAfter: int(f.idlePause), StopAfter: int(f.idleStop)}
	spec.Restart, spec.Metadata = f.restart.Restart, f.metadata
	spec.Command, spec.ImageCommand, spec.RemoveOnExit = afterDashes(command), f.imageCm, f.removeOnExit
	if f.readyCommand != "" {
		spec.Ready = dayfly.ReadyCheck{Command: []string{"sh", "-c", f.readyCommand}, Timeout: int(f.readyTimeout)}
	}
	return spec, nil
}

func (f *createFlags) check() error {
	switch {
	case f.readyTimeout != 0 && f.readyCommand == "":
		return dayfly.Errorf(dayfly.Invalid, "--ready-timeout without --ready-cmd: name the command that says when it is ready")
	case f.wait != string(dayfly.WaitReady) && f.wait != string(dayfly.WaitCreated):
		return dayfly.Errorf(dayfly.Invalid, "wait is %q: use ready or created", f.wait)
	}
	return checkAction(f.onTimeout)
}

func checkAction(s string) error {
	switch dayfly.Action(s) {
	case "", dayfly.DeleteIt, dayfly.StopIt, dayfly.PauseIt:
		return nil
	}
	return dayfly.Errorf(dayfly.Invalid, "on-timeout is %q: use delete, stop or pause", s)
}

func (a *app) create(c *cobra.Command, f *createFlags, out *output, args []string) error {
	spec, err := f.spec(a, c, args)
	if err != nil {
		return err
	}
	if err := a.needsServer("created"); err != nil {
		return err
	}
	return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		ws, err := a.timed(f.run.timings, func() (ws dayfly.Workspace, err error) {
			err = a.withImage(ctx, cl, pulling{f.run.pull, spec.Image, f.run.quiet}, func() error {
				ws, err = cl.Workspaces.CreateWith(ctx, spec, dayfly.CreateOptions{Wait: dayfly.Wait(f.wait), Once: f.once})
				return err
			})
			return ws, err
		})
		switch {
		case err != nil && ctx.Err() != nil && f.once != "":
			return errors.Join(context.Cause(ctx), dayfly.Errorf(dayfly.Unavailable, "it may be made all the same: the same command with the same idempotency key says"))
		case err != nil:
			return err
		case out.scripted():
			return out.print(a.stdout, ws)
		}
		fmt.Fprintln(a.stdout, ws.ID)
		return nil
	})
}

// pulling says which image something needs and when to pull it.
type pulling struct {
	when, image string
	quiet       bool
}

// withImage does something that needs an image, with the image pulled first or
// when it turns out to be missing, as wanted.
func (a *app) withImage(ctx context.Context, cl *client.Client, p pulling, do func() error) error {
	if p.when == "always" && p.image != "" {
		if err := a.pull(ctx, cl, p); err != nil {
			return err
		}
	}
	err := do()
	if p.when == "missing" && missingImage(err) && p.image != "" && p.image != baseImage {
		if err = a.pull(ctx, cl, p); err == nil {
			err = do()
		}
	}
	return err
}

func (a *app) pull(ctx context.Context, cl *client.Client, p pulling) error {
	bar := a.progress("pull "+p.image, p.quiet)
	defer bar.Close()
	_, err := cl.Images.Pull(ctx, p.image, "", bar.Report)
	return err
}
