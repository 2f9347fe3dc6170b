package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) logsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "logs [flags] WORKSPACE", Short: "Print what a workspace has written",
		Long: `Print what a workspace has written: the output of its main command, or with
--source boot the guest's kernel and init. What dayfly exec runs is not in it.`,
		Example: `  dayfly logs -f --tail 20 mayfly
  dayfly logs --source boot mayfly`,
		Args: exactlyOne("name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	fl := cmd.Flags()
	follow := fl.BoolP("follow", "f", false, "go on with what comes, until the workspace is gone")
	tail := fl.Int("tail", 0, "only the last `N` lines; 0: all that is kept")
	source := fl.String("source", string(dayfly.CommandLog), "whose words: command or boot")
	completeWords(cmd, "source", dayfly.CommandLog, dayfly.BootLog)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		id, err := ref(args[0])
		q := dayfly.LogQuery{Source: dayfly.LogSource(*source), Tail: *tail, Follow: *follow}
		switch {
		case err != nil:
			return err
		case q.Source != dayfly.CommandLog && q.Source != dayfly.BootLog:
			return dayfly.Errorf(dayfly.Invalid, "source is %q: use command or boot", q.Source)
		case q.Tail < 0:
			return dayfly.Errorf(dayfly.Invalid, "tail is %d: use 0 for all, or a positive number", q.Tail)
		}
		return a.withServer(c, "logs", func(ctx context.Context, cl *client.Client) error {
			log, err := cl.Workspaces.Log(ctx, id, q)
			if err != nil {
				return err
			}
			defer log.Close()
			if _, err = io.Copy(a.stdout, log); err != nil {
				return dayfly.Errorf(dayfly.Unavailable, "the log was cut: %w", err)
			}
			return nil
		})
	}
	return cmd
}
