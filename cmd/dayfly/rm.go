package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm WORKSPACE...",
		Short: "Delete workspaces in any state, with their keys and disks",
		Long: `Delete workspaces in any state, with their keys and disks. It does not ask. One
that is still being made is not made.`,
		Example: `  dayfly rm mayfly
  dayfly rm $(dayfly ls -q --state stopped)`,
		Args: atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.ID, error) {
				return id, cl.Workspaces.Delete(ctx, id)
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}
