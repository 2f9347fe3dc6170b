package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) imageBuildCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "build base",
		Short:             "Build the image base from Debian packages",
		Args:              exactlyOne("name a recipe: base"),
		ValidArgsFunction: cobra.FixedCompletions([]string{baseImage}, cobra.ShellCompDirectiveNoFileComp),
	}
	quiet := cmd.Flags().BoolP("quiet", "q", false, "show no progress")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			p := a.progress("build "+args[0], *quiet)
			im, err := cl.Images.Build(ctx, args[0], p.Report)
			p.Close()
			if err != nil {
				return err
			}
			return a.prepared(*asJSON, im)
		})
	}
	return cmd
}
