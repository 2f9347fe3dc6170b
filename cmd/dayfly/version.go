package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
)

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: noArgs}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		if *asJSON {
			return printJSON(a.stdout, map[string]string{"version": dayfly.Version, "go": runtime.Version()})
		}
		_, err := fmt.Fprintf(a.stdout, "dayfly %s (%s)\n", dayfly.Version, runtime.Version())
		return err
	}
	return cmd
}
