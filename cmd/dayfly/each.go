package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// each does something with every argument. It goes on after an error.
func (a *app) each(c *cobra.Command, args []string, do func(context.Context, *client.Client, string) error) error {
	return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		var failed []error
		for _, arg := range args {
			err := do(ctx, cl, arg)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case err != nil:
				failed = append(failed, err)
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

// eachWorkspace does something with every workspace named and prints the ids
// that come back where it went well; an empty one: nothing was done.
func (a *app) eachWorkspace(c *cobra.Command, args []string, do func(context.Context, *client.Client, dayfly.ID) (dayfly.ID, error)) error {
	return a.each(c, args, func(ctx context.Context, cl *client.Client, arg string) error {
		id, err := ref(arg)
		if err == nil {
			id, err = do(ctx, cl, id)
		}
		if err == nil && id != "" && ctx.Err() == nil {
			fmt.Fprintln(a.stdout, id)
		}
		return err
	})
}

// eachAsJSON makes something of every argument and prints a list of what went
// well, which may be empty.
func eachAsJSON[T any](a *app, c *cobra.Command, args []string, do func(context.Context, *client.Client, string) (T, error)) error {
	list := []T{}
	err := a.each(c, args, func(ctx context.Context, cl *client.Client, arg string) error {
		v, err := do(ctx, cl, arg)
		if err == nil {
			list = append(list, v)
		}
		return err
	})
	return errors.Join(err, printJSON(a.stdout, list))
}
