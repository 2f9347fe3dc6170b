package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "token WORKSPACE", Short: "Make a token that opens one workspace, for browsers and agents",
		Long: `Make a token that opens one workspace for a while: its commands, files, logs and
metrics. It takes the place of an API key, which it cannot do more than.`,
		Example: "  dayfly token --life 15m mayfly",
		Args:    exactlyOne("name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	life := span(time.Hour)
	cmd.Flags().Var(&life, "life", "how long it is valid, at most a day")
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		id, err := ref(args[0])
		switch {
		case err != nil:
			return err
		case time.Duration(life) < time.Second || time.Duration(life) > dayfly.MaxTokenLife:
			return dayfly.Errorf(dayfly.Invalid, "life is %s: use 1s to %s", time.Duration(life), dayfly.MaxTokenLife)
		}
		return a.withServer(c, "tokens", func(ctx context.Context, cl *client.Client) error {
			t, err := cl.Workspaces.Token(ctx, id, time.Duration(life))
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, t)
			}
			fmt.Fprintln(a.stdout, t.Token)
			return nil
		})
	}
	return cmd
}
