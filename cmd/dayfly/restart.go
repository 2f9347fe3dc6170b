package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) restartCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restart WORKSPACE...", Short: "Stop workspaces and start them from their disks",
		Example: "  dayfly restart mayfly",
		Args:    atLeast(1, "name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	asJSON, timings := jsonFlag(cmd), timingsFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := a.needsServer("restarted"); err != nil {
			return err
		}
		return a.changeEach(c, args, *asJSON, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.Workspace, error) {
			return a.timed(*timings, func() (dayfly.Workspace, error) { return cl.Workspaces.Restart(ctx, id) })
		})
	}
	return cmd
}

func (a *app) keepAliveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "keepalive WORKSPACE...", Short: "Count as a use of workspaces, and put off their end",
		Long: `Count as a use of workspaces, for the rule about idle ones, and put off their end:
by --timeout from now, else by the timeout they were made with.`,
		Example: `  dayfly keepalive mayfly
  dayfly keepalive --timeout 30m mayfly`,
		Args: atLeast(1, "name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	var timeout seconds
	cmd.Flags().Var(&timeout, "timeout", "end them `DURATION` from now; 0: never (default: by the timeout of each)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := a.needsServer("kept alive"); err != nil {
			return err
		}
		from := when(c.Flags().Changed("timeout"), int(timeout))
		return a.changeEach(c, args, *asJSON, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.Workspace, error) {
			return cl.Workspaces.KeepAlive(ctx, id, from)
		})
	}
	return cmd
}
