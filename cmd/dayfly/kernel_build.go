package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) kernelBuildCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Compile the tuned kernel, which is then preferred",
		Long: `Compile a kernel with what guests need and nothing else, from the package
linux-source-6.12. It takes some minutes, once; then it is preferred.`,
		Args: noArgs,
	}
	quiet := cmd.Flags().BoolP("quiet", "q", false, "show no progress")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			p := a.progress("build", *quiet)
			k, err := cl.Kernels.Build(ctx, p.Report)
			p.Close()
			if err != nil {
				return err
			}
			return a.printKernels(*asJSON, k)
		})
	}
	return cmd
}
