package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stop WORKSPACE...",
		Short:   "Stop workspaces and keep their disks",
		Example: "  dayfly stop mayfly",
		Args:    atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.ID, error) {
				ws, err := cl.Workspaces.Stop(ctx, id)
				return ws.ID, err
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}
