package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) forkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fork WORKSPACE",
		Short: "Make running copies of a running workspace",
		Long: `Make running copies of a running workspace, which goes on. Each has the memory,
the processes and the disk of that instant, and changes from then on are its own.
Their ids are printed, one a line. After an error there is no copy.`,
		Example: `  dayfly fork mayfly
  dayfly fork -n 8 mayfly`,
		Args:              exactlyOne("name a workspace"),
		ValidArgsFunction: a.completeWorkspaces,
	}
	count := cmd.Flags().IntP("count", "n", 1, fmt.Sprintf("`NUMBER` of copies, at most %d", dayfly.MaxFork))
	asJSON, timings, once := jsonFlag(cmd), timingsFlag(cmd), onceFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := a.needsServer("forked"); err != nil {
			return err
		}
		id, err := ref(args[0])
		if err != nil {
			return err
		}
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			sent := time.Since(began)
			copies, err := cl.Workspaces.Fork(ctx, id, *count, client.Once(*once))
			if err != nil {
				return err
			}
			if *timings {
				_, _ = io.WriteString(a.stderr, forkChart(sent, copies))
			}
			if *asJSON {
				return printJSON(a.stdout, copies)
			}
			for _, ws := range copies {
				fmt.Fprintln(a.stdout, ws.ID)
			}
			return nil
		})
	}
	return cmd
}

// forkChart draws the start of the copy that was the last to run.
func forkChart(sent time.Duration, copies []dayfly.Workspace) string {
	if len(copies) == 0 {
		return ""
	}
	last := slices.MaxFunc(copies, func(a, b dayfly.Workspace) int { return cmp.Compare(a.Timeline.Total(), b.Timeline.Total()) })
	head := ""
	if len(copies) > 1 {
		head = fmt.Sprintf("%d copies, the slowest:\n", len(copies))
	}
	return head + startChart(sent, last)
}
