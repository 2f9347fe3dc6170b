package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) systemPruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what can be made again", Args: noArgs,
		Long: `Remove what can be made again, and print what that gave back. It does not ask:
nothing is lost but the time to make it again. dayfly system df says beforehand
how much that is.`,
		Example: "  dayfly system prune",
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := cl.System.Prune(ctx)
			switch {
			case err != nil:
				return err
			case *asJSON:
				return printJSON(a.stdout, list)
			}
			return a.printPruned(list)
		})
	}
	return cmd
}

func (a *app) printPruned(list []dayfly.Usage) error {
	var total int64
	rows := [][]string{{"KIND", "REMOVED", "SIZE"}}
	for _, u := range list {
		total += u.Bytes
		rows = append(rows, []string{u.Kind, strconv.Itoa(u.Count), humanBytes(u.Bytes)})
	}
	if len(list) > 0 {
		if err := table(a.stdout, rows...); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.stdout, "given back: %s\n", humanBytes(total))
	return err
}
