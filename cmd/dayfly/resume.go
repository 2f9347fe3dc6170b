package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) resumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume WORKSPACE...",
		Short: "Let paused workspaces go on where they were",
		Long: `Let paused workspaces go on where they were, with their processes and memory.
They run under a server. Without one, dayfly exec lets a paused workspace go on
for one command and pauses it again.`,
		Example: `  dayfly resume mayfly
  dayfly resume --timings mayfly`,
		Args:              atLeast(1, "name a workspace"),
		ValidArgsFunction: a.completeWorkspaces,
	}
	asJSON, timings := jsonFlag(cmd), timingsFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := a.needsServer("resumed"); err != nil {
			return err
		}
		return a.changeEach(c, args, *asJSON, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.Workspace, error) {
			return a.timed(*timings, func() (dayfly.Workspace, error) { return cl.Workspaces.Resume(ctx, id) })
		})
	}
	return cmd
}
