package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// used is a running workspace and what it uses.
type used struct {
	Workspace dayfly.Workspace `json:"workspace"`
	Metrics   dayfly.Metrics   `json:"metrics"`
}

func (a *app) topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "top [WORKSPACE...]", Short: "Show what running workspaces use, as it changes",
		Long: `Show what running workspaces use, as it changes, those that use most of their CPUs
first. MEMORY and DISK are as the guest sees them; HOST is what its machine takes
of the host's memory. --json prints a line for each round.`,
		Example: `  dayfly top
  dayfly top --once --json`,
		ValidArgsFunction: a.completeWorkspaces,
	}
	out := outputFlags(cmd)
	once := cmd.Flags().Bool("once", false, "print them once")
	every := cmd.Flags().Duration("interval", 2*time.Second, "`DURATION` between two rounds, at least 1s")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		var refs []dayfly.ID
		for _, arg := range args {
			id, err := ref(arg)
			if err != nil {
				return err
			}
			refs = append(refs, id)
		}
		if *every < time.Second {
			return dayfly.Errorf(dayfly.Invalid, "interval is %s: use 1s or more", *every)
		}
		return a.withServer(c, "metrics", func(ctx context.Context, cl *client.Client) error {
			s := newScreen(a.stdout)
			for {
				list, err := usedBy(ctx, cl, refs)
				if err != nil {
					return err
				}
				if err := a.showUse(s, out, list, *once); err != nil || *once {
					return err
				}
				wait(ctx, *every)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
			}
		})
	}
	return cmd
}

// atOnce bounds the workspaces asked at the same time.
const atOnce = 16

// usedBy measures the running workspaces, or those named.
func usedBy(ctx context.Context, cl *client.Client, refs []dayfly.ID) ([]used, error) {
	var list []dayfly.Workspace
	for _, id := range refs {
		ws, err := cl.Workspaces.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		list = append(list, ws)
	}
	if len(refs) == 0 {
		for ws, err := range cl.Workspaces.All(ctx, dayfly.Query{States: []dayfly.State{dayfly.Running}, Limit: dayfly.MaxPage}) {
			if err != nil {
				return nil, err
			}
			list = append(list, ws)
		}
	}
	return measure(ctx, cl, list)
}

func measure(ctx context.Context, cl *client.Client, list []dayfly.Workspace) ([]used, error) {
	all, errs := make([]used, len(list)), make([]error, len(list))
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, ws := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			all[i].Workspace = ws
			all[i].Metrics, errs[i] = cl.Workspaces.Metrics(ctx, ws.ID)
		})
	}
	wg.Wait()
	kept := []used{}
	for i, err := range errs {
		switch kind := dayfly.KindOf(err); {
		case err == nil:
			kept = append(kept, all[i])
		case kind == dayfly.NotFound, kind == dayfly.Conflict: // it ended meanwhile
		default:
			return nil, err
		}
	}
	slices.SortStableFunc(kept, func(a, b used) int { return cmp.Compare(b.Metrics.CPUPercent, a.Metrics.CPUPercent) })
	return kept, nil
}

func (a *app) showUse(s *screen, out *output, list []used, once bool) error {
	switch {
	case out.format.t != nil, out.json && once:
		return printList(a, out, list)
	case out.json:
		return out.printLine(a.stdout, list)
	}
	rows := [][]string{{"ID", "NAME", "CPU", "MEMORY", "HOST", "DISK", "UP"}}
	for _, u := range list {
		m := u.Metrics
		rows = append(rows, []string{
			string(u.Workspace.ID), u.Workspace.Name, fmt.Sprintf("%.1f %% of %d", m.CPUPercent, m.CPUs),
			humanBytes(m.MemoryUsed) + " / " + humanBytes(m.MemoryBytes), humanBytes(m.HostMemory),
			humanBytes(m.DiskUsed) + " / " + humanBytes(m.DiskBytes),
			(time.Duration(m.UptimeS) * time.Second).String(),
		})
	}
	var text bytes.Buffer
	if err := table(&text, rows...); err != nil {
		return err
	}
	return s.draw(text.String())
}
