package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) lsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"ps"},
		Short:   "List workspaces, newest first",
		Args:    noArgs,
	}
	asJSON := jsonFlag(cmd)
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print ids only")
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Workspaces.List(ctx)
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(a.stdout, list)
			}
			if *quiet {
				for _, ws := range list {
					fmt.Fprintln(a.stdout, ws.ID)
				}
				return nil
			}
			return a.printWorkspaces(list)
		})
	}
	return cmd
}

func (a *app) printWorkspaces(list []dayfly.Workspace) error {
	rows := [][]string{{"ID", "NAME", "IMAGE", "STATE", "AGE", "CPUS", "MEMORY"}}
	for _, ws := range list {
		state := string(ws.State)
		if ws.Reason != "" {
			state += " (" + ws.Reason + ")"
		}
		memory := mebibytes(ws.Spec.MemoryMiB)
		rows = append(rows, []string{
			string(ws.ID), ws.Name, ws.Image.Name, state, ago(ws.CreatedAt), fmt.Sprint(ws.Spec.CPUs), memory.String(),
		})
	}
	return table(a.stdout, rows...)
}

// noArgs is cobra.NoArgs as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return wrongUsage(c, fmt.Errorf("%q is one argument too many", args[0]))
	}
	return nil
}

// completeWorkspaces offers ids, where a server says so quickly.
func (a *app) completeWorkspaces(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var ids []string
	_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Workspaces.List(ctx)
		for _, ws := range list {
			ids = append(ids, cobra.CompletionWithDesc(string(ws.ID), ws.Image.Name+", "+string(ws.State)))
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}
