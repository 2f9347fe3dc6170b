package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// eventFlags are the flags of dayfly events.
type eventFlags struct {
	out         *output
	follow, new bool
	workspace   string
	types       []string
	after       int64
}

func (a *app) eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "events", Short: "Print what happened to workspaces, oldest first",
		Long: `Print what happened to workspaces, oldest first. With --follow it goes on with
what happens; a connection that breaks is made anew, and nothing is missed. With
--json and --follow each event is one line.`,
		Example: `  dayfly events --workspace mayfly
  dayfly events -f --new --type workspace.failed
  dayfly events --json --after 4711`,
		Args: noArgs,
	}
	f := eventFlags{out: outputFlags(cmd)}
	fl := cmd.Flags()
	fl.BoolVarP(&f.follow, "follow", "f", false, "go on with what happens")
	fl.BoolVar(&f.new, "new", false, "with --follow: leave out what has happened before")
	fl.StringVar(&f.workspace, "workspace", "", "only those of `WORKSPACE`; of one that is deleted by now, its id")
	fl.StringSliceVar(&f.types, "type", nil, "only those of `TYPE`; more than one: any of them")
	fl.Int64Var(&f.after, "after", 0, "only those after number `SEQ`")
	completeWords(cmd, "type", dayfly.EventTypes()...)
	_ = cmd.RegisterFlagCompletionFunc("workspace", func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.completeWorkspaces(c, nil, typed)
	})
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case f.new && !f.follow:
			return wrongUsage(c, fmt.Errorf("--new leaves nothing without --follow"))
		case f.after < 0:
			return dayfly.Errorf(dayfly.Invalid, "after is %d: use the seq of an event", f.after)
		}
		return a.withServer(c, "events", func(ctx context.Context, cl *client.Client) error {
			q, err := f.query(ctx, cl)
			if err != nil {
				return err
			}
			if f.follow {
				return a.followEvents(ctx, cl, f.out, q)
			}
			return a.listEvents(ctx, cl, f.out, q)
		})
	}
	return cmd
}

func (f *eventFlags) query(ctx context.Context, cl *client.Client) (q dayfly.EventQuery, err error) {
	q = dayfly.EventQuery{After: f.after, Limit: dayfly.MaxPage}
	for _, t := range f.types {
		q.Types = append(q.Types, dayfly.EventType(t))
	}
	if q.Workspace, err = known(ctx, cl, f.workspace); err != nil {
		return q, err
	}
	if f.new {
		q.After, err = lastEvent(ctx, cl)
	}
	return q, err
}

// listEvents prints the events there are, page by page.
func (a *app) listEvents(ctx context.Context, cl *client.Client, out *output, q dayfly.EventQuery) error {
	var all []dayfly.Event // only for one array of JSON
	for {
		page, err := cl.Events.List(ctx, q)
		if err != nil {
			return err
		}
		for _, ev := range page {
			switch {
			case out.json && out.format.t == nil:
				all = append(all, ev)
			default:
				if err := a.printEvent(out, ev); err != nil {
					return err
				}
			}
		}
		if len(page) < q.Limit {
			break
		}
		q.After = page[len(page)-1].Seq
	}
	if out.json && out.format.t == nil {
		return printList(a, out, all)
	}
	return nil
}

func (a *app) followEvents(ctx context.Context, cl *client.Client, out *output, q dayfly.EventQuery) error {
	for ev, err := range cl.Events.Follow(ctx, q) {
		if err != nil {
			return err
		}
		if err := a.printEvent(out, ev); err != nil {
			return err
		}
	}
	return nil
}

// printEvent prints one event on one line. Columns have their widths
// beforehand, as the next event may be hours away.
func (a *app) printEvent(out *output, ev dayfly.Event) error {
	if out.scripted() {
		return out.printLine(a.stdout, ev)
	}
	more := ev.Reason
	if ev.Exit != nil {
		more = strings.TrimSpace(fmt.Sprintf("code %d %s", ev.Exit.Code, more))
	}
	line := fmt.Sprintf("%7d  %s  %-19s  %-21s  %-8s  %s", ev.Seq, moment(&ev.At), ev.Type, ev.Workspace, ev.State, more)
	_, err := fmt.Fprintln(a.stdout, strings.TrimRight(oneLine(line), " "))
	return err
}
