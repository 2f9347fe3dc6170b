package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

var marks = map[dayfly.Status]string{dayfly.Good: "✓", dayfly.Lacking: "!", dayfly.Broken: "✗"}

func (a *app) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can do, and what to do about what it lacks",
		Long: `Say line by line what this host can do: ✓ good, ! usable with a drawback,
✗ nothing runs without it. KVM is proved by running a guest, which may take
seconds the first time. The exit code is 1 if something is broken.`,
		Args: noArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			checks, err := cl.Host.Checks(ctx)
			if err != nil {
				return err
			}
			if *asJSON {
				err = printJSON(a.stdout, checks)
			} else {
				err = a.printChecks(checks)
			}
			for _, check := range checks {
				if check.Status == dayfly.Broken {
					return errors.Join(err, &exitError{code: exitFailed})
				}
			}
			return err
		})
	}
	return cmd
}

func (a *app) printChecks(checks []dayfly.Check) error {
	var rows [][]string
	for _, c := range checks {
		rows = append(rows, []string{marks[c.Status] + " " + c.Name, c.Detail})
		if c.Remedy != "" {
			rows = append(rows, []string{"", "→ " + c.Remedy})
		}
	}
	return table(a.stdout, rows...)
}
