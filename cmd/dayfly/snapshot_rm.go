package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) snapshotRmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm SNAPSHOT...",
		Short:             "Delete snapshots by id or name; what was started from them goes on",
		Example:           "  dayfly snapshot rm before-tests",
		Args:              atLeast(1, "name a snapshot"),
		ValidArgsFunction: a.completeSnapshots,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if *asJSON {
			return eachAsJSON(a, c, args, func(ctx context.Context, cl *client.Client, ref string) (string, error) {
				return ref, cl.Snapshots.Delete(ctx, ref)
			})
		}
		return a.each(c, args, func(ctx context.Context, cl *client.Client, ref string) error {
			err := cl.Snapshots.Delete(ctx, ref)
			if err == nil {
				fmt.Fprintln(a.stdout, ref)
			}
			return err
		})
	}
	return cmd
}
