package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) rollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback WORKSPACE SNAPSHOT",
		Short: "Put a workspace back to where it was at a snapshot of it",
		Long: `Put a workspace back to where it was when a snapshot was taken of it, memory and
disk, and let it go on from there. What happened in it since then is lost: take
another snapshot first to keep that. The snapshot "previous" is the pause before
the last one, which is there until the last one has been resumed.`,
		Example:           "  dayfly rollback mayfly before-tests",
		Args:              exactly(2, "name a workspace and a snapshot of it"),
		ValidArgsFunction: a.completeRollback,
	}
	asJSON, timings := jsonFlag(cmd), timingsFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := a.needsServer("rolled back"); err != nil {
			return err
		}
		id, err := ref(args[0])
		if err != nil {
			return err
		}
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			ws, err := a.timed(*timings, func() (dayfly.Workspace, error) { return cl.Workspaces.Rollback(ctx, id, args[1]) })
			switch {
			case err != nil:
				return err
			case *asJSON:
				return printJSON(a.stdout, ws)
			}
			fmt.Fprintln(a.stdout, ws.ID)
			return nil
		})
	}
	return cmd
}

// completeRollback offers workspaces, then the snapshots of the one named.
func (a *app) completeRollback(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.completeWorkspaces(c, args, typed)
	case 1:
		return a.snapshotRefs(c, args[0], nil), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}
