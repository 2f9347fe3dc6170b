package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Show who changed what, newest first, for admins", Args: noArgs,
		Example: `  dayfly audit
  dayfly audit -n team --limit 1000 --json`,
	}
	number := cmd.Flags().Int("limit", dayfly.DefaultPage, "at most `N` entries")
	before := cmd.Flags().Int64("before", 0, "only those before number `SEQ`")
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if *number < 1 || *before < 0 {
			return dayfly.Errorf(dayfly.Invalid, "limit is %d and before %d: use positive numbers", *number, *before)
		}
		return a.withServer(c, "audit logs", func(ctx context.Context, cl *client.Client) error {
			list, err := auditOf(ctx, cl, *before, *number)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return printList(a, out, list)
			}
			rows := [][]string{{"SEQ", "TIME", "KEY", "NAMESPACE", "FROM", "ACTION", "TARGET", "STATUS"}}
			for _, e := range list {
				rows = append(rows, []string{fmt.Sprint(e.Seq), moment(&e.At), orElse(e.Key, "(host)"), orElse(e.Namespace, "-"), e.From, e.Action, orElse(e.Target, "-"), fmt.Sprint(e.Status)})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}

// auditOf reads so many entries, page by page.
func auditOf(ctx context.Context, cl *client.Client, before int64, number int) ([]dayfly.AuditEntry, error) {
	var list []dayfly.AuditEntry
	for len(list) < number {
		q := dayfly.AuditQuery{Before: before, Limit: min(number-len(list), dayfly.MaxPage)}
		page, err := cl.Keys.Audit(ctx, q)
		if err != nil {
			return nil, err
		}
		list = append(list, page...)
		if len(page) < q.Limit {
			break
		}
		before = page[len(page)-1].Seq
	}
	return list, nil
}
