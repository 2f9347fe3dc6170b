package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) imageRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove images by name or digest",
		Args:  atLeast(1, "name an image"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
				for _, name := range args {
					if err := cl.Images.Remove(ctx, name); err != nil {
						return err
					}
					fmt.Fprintln(a.stdout, name)
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeImages,
	}
}
