package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) systemDfCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "df", Short: "Show what there is on the disk, by kind", Args: noArgs,
		Long:    "Show what there is on the disk, by kind. RECLAIMABLE is what dayfly system prune gives back.",
		Example: "  dayfly system df",
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := cl.System.Usage(ctx)
			switch {
			case err != nil:
				return err
			case *asJSON:
				return printJSON(a.stdout, list)
			}
			rows := [][]string{{"KIND", "COUNT", "SIZE", "RECLAIMABLE"}}
			for _, u := range list {
				rows = append(rows, []string{u.Kind, strconv.Itoa(u.Count), humanBytes(u.Bytes), humanBytes(u.Reclaimable)})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}
