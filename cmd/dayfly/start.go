package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) startCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "start WORKSPACE...",
		Short: "Start stopped workspaces from their disks",
		Long: `Start stopped workspaces from their disks. A paused one goes on where it was, as
with dayfly resume.`,
		Example: "  dayfly start mayfly",
		Args:    atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.needsServer("started"); err != nil {
				return err
			}
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.ID, error) {
				ws, err := cl.Workspaces.Start(ctx, id)
				return ws.ID, err
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}
