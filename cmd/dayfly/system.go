package main

import "github.com/spf13/cobra"

func (a *app) systemCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "system", Short: "Look after the host's disk, and the server's database", Args: noArgs}
	cmd.AddCommand(a.systemDfCommand(), a.systemPruneCommand(), a.systemBackupCommand())
	return cmd
}
