package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) nsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ns", Aliases: []string{"namespace", "namespaces"}, Short: "Manage namespaces and their limits, for admins", Args: noArgs,
		Long: `Manage namespaces. The workspaces and snapshots of one do not exist for callers of
another, and each has limits of its own. "default" is always there.`,
	}
	cmd.AddCommand(a.nsCreateCommand(), a.nsLsCommand(), a.nsGetCommand(), a.nsUpdateCommand(), a.nsRmCommand(),
		a.nsSuspendCommand("suspend", "Let nothing be made or started in namespaces; what runs goes on", true),
		a.nsSuspendCommand("activate", "Take back a suspension", false))
	return cmd
}

// bound is a flag for a limit; 0 or none is no limit.
type bound struct{ to *int }

func (b bound) Type() string   { return "N" }
func (b bound) String() string { return "" }

// Set reads a number.
func (b bound) Set(s string) error {
	n, err := strconv.Atoi(s)
	if s == "none" {
		n, err = 0, nil
	}
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no limit: use a number, or 0 for none", s)
	}
	*b.to = n
	return nil
}

// sizeBound is a bound in MiB that is written with a unit.
type sizeBound struct{ to *int }

func (b sizeBound) Type() string   { return "SIZE" }
func (b sizeBound) String() string { return "" }

// Set reads a size.
func (b sizeBound) Set(s string) error {
	if s == "0" || s == "none" {
		*b.to = 0
		return nil
	}
	var m mebibytes
	err := m.Set(s)
	*b.to = int(m)
	return err
}

// nsFlags are the flags of whatever sets a namespace.
type nsFlags struct {
	limits   dayfly.Limits
	metadata pairs
	unset    []string
}

// limitFlags are the limits, in the order in which they are shown.
func (f *nsFlags) limitFlags() []limitFlag {
	l := &f.limits
	return []limitFlag{
		{"workspaces", "at most `N` workspaces, in any state", &l.Workspaces, false},
		{"running", "at most `N` that run at once", &l.Running, false},
		{"cpus", "at most `N` CPUs of all that run", &l.CPUs, false},
		{"memory", "at most `SIZE` of memory of all that run, such as 16G", &l.MemoryMiB, true},
		{"disk", "at most `SIZE` of all disks, as if they were full", &l.DiskMiB, true},
		{"workspace-cpus", "at most `N` CPUs of each", &l.WorkspaceCPUs, false},
		{"workspace-memory", "at most `SIZE` of memory of each", &l.WorkspaceMemoryMiB, true},
		{"workspace-disk", "at most `SIZE` of disk of each", &l.WorkspaceDiskMiB, true},
	}
}

type limitFlag struct {
	name, help string
	value      *int
	size       bool
}

func (f *nsFlags) add(cmd *cobra.Command) {
	for _, l := range f.limitFlags() {
		if l.size {
			cmd.Flags().Var(sizeBound{l.value}, l.name, l.help+"; 0: no limit")
			continue
		}
		cmd.Flags().Var(bound{l.value}, l.name, l.help+"; 0: no limit")
	}
	cmd.Flags().Var(&f.metadata, "metadata", "note `KEY=VALUE`")
}

// over returns ns with what the flags that were given say.
func (f *nsFlags) over(c *cobra.Command, ns dayfly.Namespace) dayfly.Namespace {
	was := nsFlags{limits: ns.Limits}
	into := was.limitFlags()
	for i, l := range f.limitFlags() {
		if c.Flags().Changed(l.name) {
			*into[i].value = *l.value
		}
	}
	ns.Limits = was.limits
	notes := maps.Clone(ns.Metadata)
	if notes == nil {
		notes = map[string]string{}
	}
	maps.Copy(notes, f.metadata)
	for _, k := range f.unset {
		delete(notes, k)
	}
	ns.Metadata = notes
	return ns
}

func (a *app) nsCreateCommand() *cobra.Command {
	var f nsFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a namespace", Args: exactlyOne("name the namespace"),
		Example: "  dayfly ns create team --running 20 --memory 32G --workspace-cpus 4",
	}
	f.add(cmd)
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		ns := f.over(c, dayfly.Namespace{Name: args[0]})
		if err := dayfly.CheckNamespace(ns.Name); err != nil {
			return err
		}
		return a.withServer(c, "namespaces", func(ctx context.Context, cl *client.Client) error {
			made, err := cl.Namespaces.Create(ctx, ns)
			return a.printNamespace(out, made, err)
		})
	}
	return cmd
}

// printNamespace prints one that was made or changed: its name is enough for people.
func (a *app) printNamespace(out *output, ns dayfly.Namespace, err error) error {
	switch {
	case err != nil:
		return err
	case out.scripted():
		return out.print(a.stdout, ns)
	}
	fmt.Fprintln(a.stdout, ns.Name)
	return nil
}

func (a *app) nsUpdateCommand() *cobra.Command {
	var f nsFlags
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change a namespace's limits and metadata", Args: exactlyOne("name the namespace"),
		Long: `Change a namespace's limits and metadata. What no flag names stays as it is. Limits
below what is used end nothing, and let nothing new begin.`,
		Example:           "  dayfly ns update team --running 40 --memory 0",
		ValidArgsFunction: a.completeNamespaces,
	}
	f.add(cmd)
	cmd.Flags().StringArrayVar(&f.unset, "unset-metadata", nil, "forget the note `KEY`")
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if c.Flags().NFlag() == 0 {
			return wrongUsage(c, errors.New("say what to change"))
		}
		return a.changeNamespace(c, args[0], func(ns dayfly.Namespace) dayfly.Namespace { return f.over(c, ns) }, out)
	}
	return cmd
}

// changeNamespace replaces a namespace by what change makes of it.
func (a *app) changeNamespace(c *cobra.Command, name string, change func(dayfly.Namespace) dayfly.Namespace, out *output) error {
	if err := dayfly.CheckNamespace(name); err != nil {
		return err
	}
	return a.withServer(c, "namespaces", func(ctx context.Context, cl *client.Client) error {
		ns, err := cl.Namespaces.Get(ctx, name)
		if err == nil {
			ns, err = cl.Namespaces.Update(ctx, change(ns))
		}
		return a.printNamespace(out, ns, err)
	})
}

func (a *app) nsSuspendCommand(name, short string, suspended bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " NAMESPACE...", Short: short, Args: atLeast(1, "name a namespace"),
		Example: "  dayfly ns " + name + " team", ValidArgsFunction: a.completeNamespaces,
	}
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.eachNamed(c, "namespaces", args, func(ctx context.Context, cl *client.Client, name string) error {
			if err := dayfly.CheckNamespace(name); err != nil {
				return err
			}
			ns, err := cl.Namespaces.Get(ctx, name)
			if err == nil {
				ns.Suspended = suspended
				_, err = cl.Namespaces.Update(ctx, ns)
			}
			return err
		})
	}
	return cmd
}

func (a *app) nsLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List namespaces and their limits", Args: noArgs, Example: "  dayfly ns ls",
	}
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withServer(c, "namespaces", func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Namespaces.List(ctx)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return printList(a, out, list)
			}
			rows := [][]string{{"NAME", "STATE", "WORKSPACES", "RUNNING", "CPUS", "MEMORY", "DISK", "AGE"}}
			for _, ns := range list {
				l := ns.Limits
				rows = append(rows, []string{
					ns.Name, suspension(ns), limit(l.Workspaces), limit(l.Running), limit(l.CPUs), sizeLimit(l.MemoryMiB), sizeLimit(l.DiskMiB), ago(ns.CreatedAt),
				})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}

func suspension(ns dayfly.Namespace) string {
	if ns.Suspended {
		return "suspended"
	}
	return "active"
}

// limit is a limit for people.
func limit(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func sizeLimit(mib int) string {
	if mib == 0 {
		return "-"
	}
	m := mebibytes(mib)
	return m.String()
}

func (a *app) nsGetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "get NAME", Aliases: []string{"inspect"}, Short: "Show a namespace", Args: exactlyOne("name the namespace"),
		Example: "  dayfly ns get team", ValidArgsFunction: a.completeNamespaces,
	}
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := dayfly.CheckNamespace(args[0]); err != nil {
			return err
		}
		return a.withServer(c, "namespaces", func(ctx context.Context, cl *client.Client) error {
			ns, err := cl.Namespaces.Get(ctx, args[0])
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, ns)
			}
			all := [][2]string{
				{"name", ns.Name}, {"state", suspension(ns)}, {"created", moment(&ns.CreatedAt)}, {"metadata", assigned(ns.Metadata)},
			}
			f := nsFlags{limits: ns.Limits}
			for _, l := range f.limitFlags() {
				shown := limit(*l.value)
				if l.size {
					shown = sizeLimit(*l.value)
				}
				all = append(all, [2]string{l.name, shown})
			}
			return fields(a.stdout, all)
		})
	}
	return cmd
}

func (a *app) nsRmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAMESPACE...", Short: "Delete empty namespaces, with their keys and webhooks",
		Example: "  dayfly ns rm team", Args: atLeast(1, "name a namespace"), ValidArgsFunction: a.completeNamespaces,
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachNamed(c, "namespaces", args, func(ctx context.Context, cl *client.Client, name string) error {
				if err := dayfly.CheckNamespace(name); err != nil {
					return err
				}
				return cl.Namespaces.Delete(ctx, name)
			})
		},
	}
}
