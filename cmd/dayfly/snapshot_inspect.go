package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) snapshotInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect SNAPSHOT...",
		Short:             "Print snapshots, by id or name, as JSON",
		Example:           "  dayfly snapshot inspect before-tests",
		Args:              atLeast(1, "name a snapshot"),
		ValidArgsFunction: a.completeSnapshots,
	}
	_ = jsonFlag(cmd) // always, for the habit of it
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return eachAsJSON(a, c, args, func(ctx context.Context, cl *client.Client, ref string) (dayfly.Snapshot, error) {
			return cl.Snapshots.Get(ctx, ref)
		})
	}
	return cmd
}
