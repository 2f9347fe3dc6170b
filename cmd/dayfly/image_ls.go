package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) imageLsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List images", Args: noArgs}
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print names only")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Images.List(ctx)
			switch {
			case err != nil:
				return err
			case *asJSON:
				return printJSON(a.stdout, list)
			case *quiet:
				for _, im := range list {
					fmt.Fprintln(a.stdout, im.Name)
				}
				return nil
			}
			rows := [][]string{{"NAME", "DIGEST", "PLATFORM", "SIZE", "CREATED"}}
			for _, im := range list {
				rows = append(rows, []string{im.Name, shortDigest(im.Digest), im.Platform, humanBytes(im.Size), ago(im.CreatedAt)})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}
