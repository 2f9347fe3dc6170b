package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID...",
		Short: "Delete workspaces in any state, with their keys and disks",
		Args:  atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) error {
				return cl.Workspaces.Delete(ctx, id)
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}
