package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) imageInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect NAME",
		Short:             "Print an image and its configuration as JSON",
		Args:              exactlyOne("name an image"),
		ValidArgsFunction: a.completeImages,
	}
	_ = jsonFlag(cmd) // always, for the habit of it
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			im, err := cl.Images.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return printJSON(a.stdout, im)
		})
	}
	return cmd
}
