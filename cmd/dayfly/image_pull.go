package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) imagePullCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Pull an image from a registry",
		Long: `Pull an image from a registry and prepare it. Credentials are those of docker
login, of the user the server runs as.`,
		Example: `  dayfly image pull alpine:3.22
  dayfly image pull --platform linux/amd64 registry.example/team/app@sha256:…`,
		Args: exactlyOne("name one image, such as alpine:3.22"),
	}
	platform := cmd.Flags().String("platform", "", "`OS/ARCH[/VARIANT]` (default: this host's)")
	quiet := cmd.Flags().BoolP("quiet", "q", false, "show no progress")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			p := a.progress("pull "+args[0], *quiet)
			im, err := cl.Images.Pull(ctx, args[0], *platform, p.Report)
			p.Close()
			if err != nil {
				return err
			}
			return a.prepared(*asJSON, im)
		})
	}
	return cmd
}

// exactlyOne is a cobra.PositionalArgs that says what is missing.
func exactlyOne(missing string) cobra.PositionalArgs { return exactly(1, missing) }

func exactly(n int, missing string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return noArgs(c, args[n:])
		}
		return atLeast(n, missing)(c, args)
	}
}
