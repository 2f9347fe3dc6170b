package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID...",
		Short: "Delete workspaces in any state, with their keys and disks",
		Args:  atLeast(1, "name a workspace"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachWorkspace(c, args, func(ctx context.Context, cl *client.Client, id dayfly.ID) error {
				return cl.Workspaces.Delete(ctx, id)
			})
		},
		ValidArgsFunction: a.completeWorkspaces,
	}
}

// eachWorkspace does something with every workspace named and prints the ids
// with which it went well. It goes on after an error.
func (a *app) eachWorkspace(c *cobra.Command, args []string, do func(context.Context, *client.Client, dayfly.ID) error) error {
	return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		var failed []error
		for _, arg := range args {
			id, err := dayfly.ParseID(arg)
			if err == nil {
				err = do(ctx, cl, id)
			}
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil:
				failed = append(failed, err)
			default:
				fmt.Fprintln(a.stdout, id)
			}
		}
		for _, err := range failed[:max(0, len(failed)-1)] {
			a.explain(err)
		}
		if len(failed) == 0 {
			return nil
		}
		return errors.Join(failed[len(failed)-1])
	})
}
