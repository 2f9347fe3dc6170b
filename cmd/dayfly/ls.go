package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// lsFlags are the flags of dayfly ls.
type lsFlags struct {
	out               *output
	states            []string
	name, image       string
	metadata          pairs
	order             string
	all, watch, quiet bool
}

func (a *app) lsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"ps", "list"},
		Short:   "List workspaces, newest first",
		Example: `  dayfly ls --state running --metadata team=ci
  dayfly ls --format '{{.id}} {{.image.name}} {{.expires_at}}'
  dayfly ls --watch`,
		Args: noArgs,
	}
	f := lsFlags{out: outputFlags(cmd)}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.states, "state", nil, "only those in `STATE`; more than one: any of them")
	fl.StringVar(&f.name, "name", "", "only those called `NAME`")
	fl.StringVar(&f.image, "image", "", "only those of `IMAGE`, as it was named for them")
	fl.Var(&f.metadata, "metadata", "only those with `KEY=VALUE`; more than one: all of them")
	fl.StringVar(&f.order, "order", string(dayfly.NewestFirst), "`ORDER` of the list: newest, oldest or name")
	fl.BoolVar(&f.all, "all-namespaces", false, "those of all namespaces, for admins")
	fl.BoolVarP(&f.watch, "watch", "w", false, "go on, and list again whenever something happened")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "print ids only")
	completeWords(cmd, "state", dayfly.States()...)
	completeWords(cmd, "order", dayfly.NewestFirst, dayfly.OldestFirst, dayfly.ByName)
	_ = cmd.RegisterFlagCompletionFunc("image", func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.completeImages(c, nil, typed)
	})
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if f.all {
			a.namespace, a.everywhere = "", true
		}
		if f.watch {
			return a.withServer(c, "events", func(ctx context.Context, cl *client.Client) error { return a.watchList(ctx, cl, &f) })
		}
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := f.list(ctx, cl)
			if err != nil {
				return err
			}
			return a.printWorkspaces(&f, list)
		})
	}
	return cmd
}

// list asks for all that the flags select.
func (f *lsFlags) list(ctx context.Context, cl *client.Client) ([]dayfly.Workspace, error) {
	q := dayfly.Query{Name: f.name, Image: f.image, Metadata: f.metadata, Order: dayfly.Order(f.order), Limit: dayfly.MaxPage}
	for _, s := range f.states {
		q.States = append(q.States, dayfly.State(s))
	}
	var list []dayfly.Workspace
	for ws, err := range cl.Workspaces.All(ctx, q) {
		if err != nil {
			return nil, err
		}
		list = append(list, ws)
	}
	return list, nil
}

func (a *app) printWorkspaces(f *lsFlags, list []dayfly.Workspace) error {
	switch {
	case f.out.scripted():
		return printList(a, f.out, list)
	case f.quiet:
		for _, ws := range list {
			fmt.Fprintln(a.stdout, ws.ID)
		}
		return nil
	}
	return table(a.stdout, workspaceRows(list, f.all)...)
}

// workspaceRows are the lines of a list under their heading.
func workspaceRows(list []dayfly.Workspace, namespaces bool) [][]string {
	rows := [][]string{{"ID", "NAME", "IMAGE", "STATE", "AGE", "CPUS", "MEMORY"}}
	for _, ws := range list {
		memory := mebibytes(ws.Spec.MemoryMiB)
		rows = append(rows, []string{
			string(ws.ID), ws.Name, ws.Image.Name, stateOf(ws), ago(ws.CreatedAt), fmt.Sprint(ws.Spec.CPUs), memory.String(),
		})
	}
	if !namespaces {
		return rows
	}
	rows[0] = append([]string{"NAMESPACE"}, rows[0]...)
	for i, ws := range list {
		rows[i+1] = append([]string{ws.Namespace}, rows[i+1]...)
	}
	return rows
}

// stateOf is a state with what there is to say about it.
func stateOf(ws dayfly.Workspace) string {
	var more []string
	if ws.Reason != "" {
		more = append(more, ws.Reason)
	}
	if ws.State == dayfly.Running && !ws.Ready && len(ws.Spec.Ready.Command) > 0 {
		more = append(more, "not ready")
	}
	if len(more) == 0 {
		return string(ws.State)
	}
	return string(ws.State) + " (" + strings.Join(more, ", ") + ")"
}

// noArgs is cobra.NoArgs as a usage error.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return wrongUsage(c, fmt.Errorf("%q is one argument too many", args[0]))
	}
	return nil
}
