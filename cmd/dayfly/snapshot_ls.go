package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) snapshotLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List snapshots, newest first", Args: noArgs,
		Long: `List snapshots, newest first. MEMORY and DISK are what is stored of each; layers
of disks are shared, so FREES says what deleting it alone gives back.`,
		Example: "  dayfly snapshot ls --workspace mayfly",
	}
	workspace := cmd.Flags().String("workspace", "", "only those of `WORKSPACE`; of one that is deleted by now, its id")
	_ = cmd.RegisterFlagCompletionFunc("workspace", func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.completeWorkspaces(c, nil, typed)
	})
	quiet := cmd.Flags().BoolP("quiet", "q", false, "print ids only")
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			id, err := known(ctx, cl, *workspace)
			if err != nil {
				return err
			}
			list, err := cl.Snapshots.List(ctx, id)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return printList(a, out, list)
			case *quiet:
				for _, sn := range list {
					fmt.Fprintln(a.stdout, sn.ID)
				}
				return nil
			}
			return a.printSnapshots(list)
		})
	}
	return cmd
}

func (a *app) printSnapshots(list []dayfly.Snapshot) error {
	rows := [][]string{{"ID", "NAME", "WORKSPACE", "IMAGE", "AGE", "MEMORY", "DISK", "FREES"}}
	for _, sn := range list {
		rows = append(rows, []string{
			string(sn.ID), sn.Name, string(sn.Workspace), sn.Image.Name, ago(sn.CreatedAt),
			humanBytes(sn.RAMBytes), humanBytes(sn.DiskBytes), humanBytes(sn.FreeBytes),
		})
	}
	return table(a.stdout, rows...)
}
