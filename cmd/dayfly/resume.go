package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) resumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume ID...",
		Short: "Let paused workspaces go on where they were",
		Long: `Let paused workspaces go on where they were, with their processes and memory.
They run under a server. Without one, dayfly exec lets a paused workspace go on
for one command and pauses it again.`,
		Example: `  dayfly resume wabcdefghijklmnopqrst
  dayfly resume --timings wabcdefghijklmnopqrst`,
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

// needsServer returns an error unless there is a server for a workspace to run
// under once this command has ended.
func (a *app) needsServer(done string) error {
	if a.host != "" {
		return nil
	}
	return dayfly.Errorf(dayfly.Invalid, "a workspace that is %s needs a server to run under: "+
		"dayfly serve, then --host or DAYFLY_HOST; dayfly exec runs a command in a stopped or paused one without", done)
}
