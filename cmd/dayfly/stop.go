package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop ID...",
		Short: "Stop workspaces and keep their disks",
		Args:  atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) error {
				_, err := cl.Workspaces.Stop(ctx, id)
				return err
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}
