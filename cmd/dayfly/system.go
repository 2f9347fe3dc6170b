package main

import "github.com/spf13/cobra"

func (a *app) systemCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "system", Short: "Look after the host's disk", Args: noArgs}
	cmd.AddCommand(a.systemDfCommand(), a.systemPruneCommand())
	return cmd
}
