package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) kernelImportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE.deb",
		Short: "Take the kernel from a Debian linux-image package",
		Long: `Take the kernel, and the modules a guest needs, from a Debian package. Nothing
is installed as this machine's kernel.`,
		Example: "  apt-get download linux-image-6.12.48+deb13-cloud-amd64 && dayfly kernel import linux-image-*.deb",
		Args:    exactlyOne("name a package file"),
	}
	quiet := cmd.Flags().BoolP("quiet", "q", false, "show no progress")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		deb, err := os.Open(args[0])
		if err != nil {
			return dayfly.Errorf(dayfly.Invalid, "%w", err)
		}
		defer deb.Close()
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			p := a.progress("import", *quiet)
			k, err := cl.Kernels.Import(ctx, deb, p.Report)
			p.Close()
			if err != nil {
				return err
			}
			return a.printKernels(*asJSON, k)
		})
	}
	return cmd
}
