package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// runFlags are the flags of dayfly run.
type runFlags struct {
	interactive, tty, keep, cold, timings, quiet bool

	env, envFiles []string
	workdir, user string
	name, accel   string
	cpus          processors
	memory, disk  mebibytes
	timeout       time.Duration
	pull, json    string
	snapshot      string
}

const runLong = `Run a command in a new workspace, and delete the workspace when it ends.

Without CMD the image's own command is run. CMD replaces the image's command and
keeps its entrypoint. Flags end at the image's name. An image that is not there
yet is pulled.

With --snapshot there is no IMAGE: the workspace is a copy of the one the
snapshot was taken of, and goes on from that instant, its memory, processes and
disk included. CMD is then run in it.

The exit code is the command's; 128 and the signal's number if a signal ended
it; 124 if the time was up; 125 if the fault is dayfly's; 126 if the command
cannot be invoked; 127 if it is not there.

Signals are passed on to the command. The first Ctrl-C before the command has
started, or the second within a second, takes everything down.`

const runExample = `  dayfly run base -- python3 -c 'print("hello")'
  dayfly run -it base bash
  tar c . | dayfly run -i base -- tar xv -C /tmp
  dayfly run -e TOKEN --env-file app.env --memory 2G alpine:3.22 env
  dayfly run --timings base true
  dayfly run --snapshot before-tests -- make test`

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] {IMAGE | --snapshot SNAPSHOT} [--] [CMD [ARG...]]",
		Short: "Run a command in a new workspace",
		Long:  runLong, Example: runExample,
		Annotations: forCommands,
		Args:        f.source,
		RunE: func(c *cobra.Command, args []string) error {
			return a.runImage(c, &f, args)
		},
		ValidArgsFunction: a.completeRun,
	}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on to the command")
	fl.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	f.machineFlags(a, cmd)
	fl.StringVar(&a.jail, "jail", a.jail, "without a server: on, or off for measuring only, as a guest that breaks out of its machine then has all of this host [DAYFLY_JAIL]")
	completeWords(cmd, "jail", jailOn, jailOff)
	fl.StringVar(&a.vmm, "vmm", a.vmm, "without a server: auto, qemu or firecracker, what a new machine is made with [DAYFLY_VMM; DAYFLY_FIRECRACKER has its program]")
	completeWords(cmd, "vmm", vmmAuto, vmmQEMU, vmmFirecracker)
	fl.DurationVar(&f.timeout, "timeout", 0, "end it all after `DURATION` from the start of the workspace, such as 30s; the exit code is then 124")
	fl.BoolVar(&f.keep, "keep", false, "stop the workspace at the end instead of deleting it, and print its id to stderr")
	fl.StringVar(&f.json, "json", "", "report as one line of JSON at the end of stderr, or to `FILE`")
	fl.Lookup("json").NoOptDefVal = toStderr
	return cmd
}

// machineFlags adds the flags of whatever makes a workspace.
func (f *runFlags) machineFlags(a *app, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set `NAME=VALUE`; NAME alone copies the variable of the caller")
	fl.StringArrayVar(&f.envFiles, "env-file", nil, "set what is in `FILE`, one NAME=VALUE a line")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` to start the command in (default: the image's)")
	fl.StringVarP(&f.user, "user", "u", "", "`USER[:GROUP]` to run the command as, names or numbers (default: the image's)")
	f.cpus.cpus = dayfly.DefaultCPUs
	fl.Var(&f.cpus, "cpus", "number of virtual CPUs; a fraction such as 0.25 is the most of a processor that all of them may use")
	f.memory, f.disk = dayfly.DefaultMemoryMiB, dayfly.DefaultDiskMiB
	fl.VarP(&f.memory, "memory", "m", "memory, such as 512M or 2G")
	fl.Var(&f.disk, "disk", "size of the private disk, such as 2G; it costs what is written")
	fl.StringVar(&f.name, "name", "", "`NAME` of the workspace, and its host name")
	fl.StringVar(&f.accel, "accel", string(dayfly.Auto), "how guest instructions run: auto, kvm or tcg")
	fl.StringVar(&f.snapshot, "snapshot", "", "start from `SNAPSHOT`, an id or name, instead of an image")
	fl.BoolVar(&f.cold, "cold", false, "boot a kernel even where a faster start is possible")
	fl.StringVar(&f.pull, "pull", "missing", "pull the image: missing, always or never")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress of a pull")
	fl.BoolVar(&f.timings, "timings", false, "print where the time went to stderr")
	completeWords(cmd, "accel", dayfly.Auto, dayfly.KVM, dayfly.TCG)
	_ = cmd.RegisterFlagCompletionFunc("snapshot", a.completeSnapshots)
	completeWords(cmd, "pull", "missing", "always", "never")
}

// atLeast is a cobra.PositionalArgs that says what is missing.
func atLeast(n int, missing string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return wrongUsage(c, errors.New(missing))
		}
		return nil
	}
}

// afterDashes drops the -- between an image and a command.
func afterDashes(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}

func (f *runFlags) spec(a *app, cmd *cobra.Command, image string) (dayfly.Spec, error) {
	env, err := environment(f.envFiles, f.env, a.lookupEnv)
	if err != nil {
		return dayfly.Spec{}, dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	if f.pull != "missing" && f.pull != "always" && f.pull != "never" {
		return dayfly.Spec{}, dayfly.Errorf(dayfly.Invalid, "pull is %q: use missing, always or never", f.pull)
	}
	if f.timeout < 0 {
		return dayfly.Spec{}, dayfly.Errorf(dayfly.Invalid, "timeout is %s: use a positive duration, such as 30s", f.timeout)
	}
	spec := dayfly.Spec{
		Image: image, Name: f.name, CPUs: f.cpus.cpus, CPULimit: f.cpus.limit, MemoryMiB: int(f.memory), DiskMiB: int(f.disk),
		Env: env, User: f.user, Workdir: f.workdir, Accel: dayfly.Accel(f.accel), Cold: f.cold, Keep: f.keep,
	}
	if f.timeout > 0 {
		// For a server that outlives us: we end it ourselves, and sooner.
		spec.Timeout = int(math.Ceil(f.timeout.Seconds())) + 1
	}
	if err := f.fromSnapshot(cmd, &spec); err != nil {
		return spec, err
	}
	_, err = spec.Normal()
	return spec, err
}

// runImage is dayfly run, from its flags to the last report.
func (a *app) runImage(cmd *cobra.Command, f *runFlags, args []string) error {
	image, command := f.split(args)
	spec, err := f.spec(a, cmd, image)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	at, err := a.attach(cancel, f.interactive, f.tty)
	if err != nil {
		return err
	}
	defer at.Close()
	r := &oneRun{app: a, cmd: cmd, f: f, at: at, spec: spec, args: command, cancel: cancel}
	exit, err := r.do(ctx)
	at.tty.Close() // before anything is printed
	code := exit.Code
	if err != nil {
		a.explain(err)
		code = codeOf(cmd, err)
	}
	r.deliver(exit, err) // last, so that its line of JSON is the last one
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// oneRun is a workspace for one command.
type oneRun struct {
	app    *app
	cmd    *cobra.Command
	f      *runFlags
	at     *attachment
	spec   dayfly.Spec
	args   []string
	cancel context.CancelCauseFunc

	ws                 dayfly.Workspace
	sentAt             time.Duration // since the program began: the request that started the workspace
	repliedAt, endedAt time.Duration
}

func (r *oneRun) do(ctx context.Context) (exit client.Exit, err error) {
	if err := r.start(ctx); err != nil {
		return exit, cause(ctx, err)
	}
	defer func() { err = errors.Join(err, r.end()) }()
	exit, err = r.at.run(ctx, r.ws.ID, client.Command{Args: r.args})
	r.endedAt = time.Since(began)
	return exit, err
}

// start makes the workspace, with its image pulled if that is wanted.
func (r *oneRun) start(ctx context.Context) error {
	p := pulling{r.f.pull, r.spec.Image, r.f.quiet}
	return r.app.withImage(ctx, r.at.client, p, func() error { return r.create(ctx) })
}

// baseImage is built here and found in no registry.
const baseImage = "base"

// missingImage says whether a start failed for lack of its image: the startup
// row of that name found nothing.
func missingImage(err error) bool {
	var e *dayfly.Error
	return errors.As(err, &e) && e.Kind == dayfly.NotFound && e.Stage == "image"
}

// create starts the workspace, and its time with it.
func (r *oneRun) create(ctx context.Context) (err error) {
	if r.f.timeout > 0 {
		timer := time.AfterFunc(r.f.timeout, func() {
			r.cancel(&exitError{exitTimeout, fmt.Errorf("the time is up: %s passed", r.f.timeout)})
		})
		defer func() {
			if err != nil {
				timer.Stop()
			}
		}()
	}
	if r.f.keep && r.f.timeout > 0 && !r.app.inside() {
		r.spec.OnTimeout = dayfly.StopIt // where the server ends it for us
	}
	r.sentAt = time.Since(began)
	r.ws, err = r.at.client.Workspaces.Create(ctx, r.spec)
	r.repliedAt = time.Since(began)
	return err
}

// endTimeout bounds the end of a workspace, which stops its processes in order.
const endTimeout = time.Minute

// end deletes the workspace, or stops it if it is to be kept.
func (r *oneRun) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if !r.f.keep {
		err := r.at.client.Workspaces.Delete(ctx, r.ws.ID)
		if dayfly.KindOf(err) == dayfly.NotFound { // the server's own timeout was faster
			return nil
		}
		return err
	}
	ws, err := r.at.client.Workspaces.Stop(ctx, r.ws.ID)
	if dayfly.KindOf(err) == dayfly.Conflict { // it had ended by itself
		ws, err = r.at.client.Workspaces.Get(ctx, r.ws.ID)
	}
	if err == nil {
		r.at.tty.Close()
		fmt.Fprintf(r.app.stderr, "kept: %s (%s)\n", ws.ID, ws.State)
	}
	return err
}
