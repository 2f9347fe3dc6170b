package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) startCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "start ID...",
		Short: "Start stopped workspaces from their disks",
		Args:  atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			if a.host == "" {
				return dayfly.Errorf(dayfly.Invalid, "a workspace that is started needs a server to run under: "+
					"dayfly serve, then --host or DAYFLY_HOST; dayfly exec runs a command in a stopped one without")
			}
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) error {
				_, err := cl.Workspaces.Start(ctx, id)
				return err
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}
