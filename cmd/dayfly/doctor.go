package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can do, and what to do about what it lacks",
		Long: `Say line by line what this host can do: ✓ good, ! usable with a drawback,
✗ nothing runs without it; what a drawback costs, and how to change it. KVM is
proved by running a guest, which may take seconds the first time. Nothing on
the host is changed.

The exit code is 1 if something is broken; with --strict also if there is a
drawback. --json prints a list of {subject, name, status, detail, cost, remedy}
with the status good, lacking or broken.`,
		Args: noArgs,
	}
	asJSON := jsonFlag(cmd)
	strict := cmd.Flags().Bool("strict", false, "exit with 1 also if there is a drawback")
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			checks, err := cl.Host.Checks(ctx)
			if err != nil {
				return err
			}
			if *asJSON {
				err = printJSON(a.stdout, checks)
			} else {
				err = newVerdicts(a.stdout, a.lookupEnv).print(a.stdout, checks)
			}
			if unfit(checks, *strict) {
				err = errors.Join(err, &exitError{code: exitFailed})
			}
			return err
		})
	}
	return cmd
}

// unfit says whether a host is not good enough: something is broken, or strictly
// anything but good.
func unfit(checks []dayfly.Check, strict bool) bool {
	for _, c := range checks {
		if c.Status == dayfly.Broken || strict && c.Status != dayfly.Good {
			return true
		}
	}
	return false
}
