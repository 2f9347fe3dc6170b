package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
)

func (a *app) kernelCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kernel", Aliases: []string{"kernels"}, Short: "Manage guest kernels", Args: noArgs}
	cmd.AddCommand(a.kernelLsCommand(), a.kernelImportCommand(), a.kernelBuildCommand())
	return cmd
}

func (a *app) printKernels(asJSON bool, list ...dayfly.Kernel) error {
	if asJSON {
		return printJSON(a.stdout, list)
	}
	rows := [][]string{{"ID", "RELEASE", "FLAVOUR", "PREFERRED", "SIZE"}}
	for _, k := range list {
		rows = append(rows, []string{k.ID, k.Release, k.Flavour, strconv.FormatBool(k.Preferred), humanBytes(k.Size)})
	}
	return table(a.stdout, rows...)
}
