package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) kernelLsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List the kernels guests can boot", Args: noArgs}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Kernels.List(ctx)
			if err != nil {
				return err
			}
			return a.printKernels(*asJSON, list...)
		})
	}
	return cmd
}
