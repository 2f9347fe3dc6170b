package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) quotaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "quota [NAMESPACE]", Short: "Show what a namespace may hold, and what it does", Args: atMost(1),
		Example: `  dayfly quota
  dayfly quota team`,
		ValidArgsFunction: a.completeNamespaces,
	}
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		name := ""
		if len(args) == 1 {
			name = args[0]
			if err := dayfly.CheckNamespace(name); err != nil {
				return err
			}
		}
		return a.withServer(c, "quotas", func(ctx context.Context, cl *client.Client) error {
			q, err := cl.Namespaces.Quota(ctx, name)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, q)
			}
			l, u := q.Limits, q.Used
			memory, disk := mebibytes(u.MemoryMiB), mebibytes(u.DiskMiB)
			return table(a.stdout,
				[]string{"OF " + q.Namespace, "USED", "LIMIT", "OF EACH"},
				[]string{"workspaces", strconv.Itoa(u.Workspaces), limit(l.Workspaces), ""},
				[]string{"running", strconv.Itoa(u.Running), limit(l.Running), ""},
				[]string{"cpus", strconv.Itoa(u.CPUs), limit(l.CPUs), limit(l.WorkspaceCPUs)},
				[]string{"memory", memory.String(), sizeLimit(l.MemoryMiB), sizeLimit(l.WorkspaceMemoryMiB)},
				[]string{"disk", disk.String(), sizeLimit(l.DiskMiB), sizeLimit(l.WorkspaceDiskMiB)},
			)
		})
	}
	return cmd
}
