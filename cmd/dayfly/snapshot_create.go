package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) snapshotCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create WORKSPACE",
		Short: "Keep a running workspace as it is at one instant; it goes on",
		Example: `  dayfly snapshot create mayfly --name before-tests
  dayfly run --snapshot before-tests -- make test`,
		Args:              exactlyOne("name a workspace"),
		ValidArgsFunction: a.completeWorkspaces,
	}
	name := cmd.Flags().String("name", "", "`NAME` of the snapshot, unique on a host, without spaces and slashes")
	asJSON, once := jsonFlag(cmd), onceFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		id, err := ref(args[0])
		if err != nil {
			return err
		}
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			sn, err := cl.Snapshots.Create(ctx, id, *name, client.Once(*once))
			switch {
			case err != nil:
				return err
			case *asJSON:
				return printJSON(a.stdout, sn)
			}
			fmt.Fprintln(a.stdout, sn.ID)
			return nil
		})
	}
	return cmd
}
