package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// updateFlags are the flags of dayfly update.
type updateFlags struct {
	name                         string
	metadata                     pairs
	unset                        []string
	timeout, idlePause, idleStop seconds
	onTimeout                    string
	keep, apply                  bool
	restart                      restartFlag
	cpus                         int
	memory, disk                 mebibytes
}

func (a *app) updateCommand() *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use: "update [flags] WORKSPACE", Short: "Change a workspace's name, metadata, rules or resources",
		Long: `Change a workspace's name, metadata, rules or resources. What no flag names stays
as it is. Rules count anew from now on. CPUs, memory and disk take effect with the
next start, or at once with --apply, which stops and starts it; a disk can only
grow.`,
		Example: `  dayfly update --timeout 2h --on-timeout pause mayfly
  dayfly update --metadata team=ci --unset-metadata owner mayfly
  dayfly update --memory 2G --apply mayfly`,
		Args: exactlyOne("name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	f.add(cmd)
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		id, err := ref(args[0])
		if err == nil {
			err = f.check(c)
		}
		if err != nil {
			return err
		}
		return a.withServer(c, "rules", func(ctx context.Context, cl *client.Client) error {
			u, err := f.update(ctx, c, cl, id)
			if err != nil {
				return err
			}
			ws, err := cl.Workspaces.Update(ctx, id, u)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, ws)
			}
			fmt.Fprintln(a.stdout, ws.ID)
			return nil
		})
	}
	return cmd
}

func (f *updateFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "call it `NAME`; empty: nothing")
	fl.Var(&f.metadata, "metadata", "note `KEY=VALUE`; other notes stay")
	fl.StringArrayVar(&f.unset, "unset-metadata", nil, "forget the note `KEY`")
	fl.Var(&f.timeout, "timeout", "end it `DURATION` from now, and after each start; 0: never")
	fl.StringVar(&f.onTimeout, "on-timeout", "", "what becomes of it then: delete, stop or pause")
	fl.BoolVar(&f.keep, "keep", false, "never delete it unasked; --keep=false: that may be again")
	fl.Var(&f.idlePause, "idle-pause", "pause it when nobody has used it for `DURATION`; 0: never")
	fl.Var(&f.idleStop, "idle-stop", "stop it when nobody has used it for `DURATION`; 0: never")
	fl.Var(&f.restart, "restart", "after it has ended by itself: no, on-failure, always or unless-stopped, and perhaps :MAX")
	fl.IntVar(&f.cpus, "cpus", 0, "number of virtual CPUs")
	fl.VarP(&f.memory, "memory", "m", "memory, such as 512M or 2G")
	fl.Var(&f.disk, "disk", "size of the private disk, which can only grow")
	fl.BoolVar(&f.apply, "apply", false, "stop and start it now, if it runs, so that it has its new resources")
	completeWords(cmd, "on-timeout", dayfly.DeleteIt, dayfly.StopIt, dayfly.PauseIt)
	completeWords(cmd, "restart", dayfly.RestartNo, dayfly.RestartOnFailure, dayfly.RestartAlways, dayfly.RestartUnlessStopped)
}

func (f *updateFlags) check(c *cobra.Command) error {
	some := false
	for _, name := range []string{
		"name", "metadata", "unset-metadata", "timeout", "on-timeout", "keep", "idle-pause", "idle-stop", "restart", "cpus", "memory", "disk", "apply",
	} {
		some = some || c.Flags().Changed(name)
	}
	switch {
	case !some:
		return wrongUsage(c, errors.New("say what to change"))
	case c.Flags().Changed("on-timeout") && f.onTimeout == "":
		return dayfly.Errorf(dayfly.Invalid, "on-timeout is empty: use delete, stop or pause")
	}
	return checkAction(f.onTimeout)
}

// update is what the flags ask for. What is replaced as a whole is looked up.
func (f *updateFlags) update(ctx context.Context, c *cobra.Command, cl *client.Client, id dayfly.ID) (dayfly.Update, error) {
	given := c.Flags().Changed
	u := dayfly.Update{
		Name: when(given("name"), f.name), Timeout: when(given("timeout"), int(f.timeout)),
		OnTimeout: when(given("on-timeout"), dayfly.Action(f.onTimeout)), Keep: when(given("keep"), f.keep),
		Restart: when(given("restart"), f.restart.Restart), Apply: f.apply,
		CPUs: when(given("cpus"), f.cpus), MemoryMiB: when(given("memory"), int(f.memory)), DiskMiB: when(given("disk"), int(f.disk)),
	}
	noted, idle := given("metadata") || given("unset-metadata"), given("idle-pause") || given("idle-stop")
	if !noted && !idle {
		return u, nil
	}
	ws, err := cl.Workspaces.Get(ctx, id)
	if err != nil {
		return u, err
	}
	if noted {
		u.Metadata = map[string]string{}
		maps.Copy(u.Metadata, ws.Spec.Metadata)
		maps.Copy(u.Metadata, f.metadata)
		for _, k := range f.unset {
			delete(u.Metadata, k)
		}
	}
	if idle {
		rule := ws.Spec.Idle
		if given("idle-pause") {
			rule.PauseAfter = int(f.idlePause)
		}
		if given("idle-stop") {
			rule.StopAfter = int(f.idleStop)
		}
		u.Idle = &rule
	}
	return u, nil
}

// when returns v where it was given, else nil.
func when[T any](given bool, v T) *T {
	if !given {
		return nil
	}
	return &v
}
