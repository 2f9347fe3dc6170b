package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) pauseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause WORKSPACE...",
		Short: "Save running workspaces, memory and disk, and end their machines",
		Long: `Save running workspaces, memory and disk, and end their machines. Once an id is
printed, all of it is safely on the host's disk, encrypted. dayfly resume lets
them go on where they were, processes included.`,
		Example:           "  dayfly pause mayfly",
		Args:              atLeast(1, "name a workspace"),
		ValidArgsFunction: a.completeWorkspaces,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.changeEach(c, args, *asJSON, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.Workspace, error) {
			return cl.Workspaces.Pause(ctx, id)
		})
	}
	return cmd
}

// changeEach does something with every workspace named and prints those with
// which it went well. It goes on after an error.
func (a *app) changeEach(c *cobra.Command, args []string, asJSON bool,
	do func(context.Context, *client.Client, dayfly.ID) (dayfly.Workspace, error),
) error {
	if !asJSON {
		return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) (dayfly.ID, error) {
			ws, err := do(ctx, cl, id)
			return ws.ID, err
		})
	}
	return eachAsJSON(a, c, args, func(ctx context.Context, cl *client.Client, arg string) (dayfly.Workspace, error) {
		id, err := ref(arg)
		if err != nil {
			return dayfly.Workspace{}, err
		}
		return do(ctx, cl, id)
	})
}
