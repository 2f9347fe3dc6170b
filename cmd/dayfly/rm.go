package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm WORKSPACE...",
		Short: "Delete workspaces in any state, with their keys and disks",
		Long: `Delete workspaces in any state, with their keys and disks. It does not ask. One
that is still being made is not made.`,
		Example: `  dayfly rm mayfly
  dayfly rm -f $(dayfly ls -q --state stopped)`,
		Args: atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.ID, error) {
				err := cl.Workspaces.Delete(ctx, id)
				if force && dayfly.KindOf(err) == dayfly.NotFound {
					return "", nil
				}
				return id, err
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not mind what is not there, or not any more")
	return cmd
}
