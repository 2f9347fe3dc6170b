package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/client"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Aliases: []string{"snapshots"}, Short: "Manage snapshots of workspaces", Args: noArgs,
		Long: `Manage snapshots: workspaces as they were at one instant, memory, processes and
disk, kept to start others from (dayfly run --snapshot) or to go back to (dayfly
rollback). They outlive the workspaces they were taken of.`,
	}
	cmd.AddCommand(a.snapshotCreateCommand(), a.snapshotLsCommand(), a.snapshotInspectCommand(), a.snapshotRmCommand())
	return cmd
}

// completeSnapshots offers snapshots that are not named yet.
func (a *app) completeSnapshots(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.snapshotRefs(c, "", args), cobra.ShellCompDirectiveNoFileComp
}

// snapshotRefs lists what the snapshots of a workspace, or all, are called:
// their names, and the ids of those without one.
func (a *app) snapshotRefs(c *cobra.Command, of string, but []string) []string {
	var refs []string
	_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		id, err := known(ctx, cl, of)
		if err != nil {
			return err
		}
		list, err := cl.Snapshots.List(ctx, id)
		for _, sn := range list {
			if ref := cmp.Or(sn.Name, string(sn.ID)); !slices.Contains(but, ref) {
				refs = append(refs, cobra.CompletionWithDesc(ref, sn.Image.Name+", "+ago(sn.CreatedAt)+" old"))
			}
		}
		return err
	})
	return refs
}
