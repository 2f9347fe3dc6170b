package main

import (
	"context"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// ref takes what a user calls a workspace: its id, its name, or the beginning of
// its id. The server knows which one it is.
func ref(arg string) (dayfly.ID, error) {
	if arg == "" || arg == "." || arg == ".." || strings.ContainsFunc(arg, unicode.IsControl) {
		return "", dayfly.Errorf(dayfly.Invalid, "%q names no workspace: use its id, its name, or the beginning of its id (see: dayfly ls)", arg)
	}
	return dayfly.ID(arg), nil
}

// known returns the id of the workspace that arg names. An id need not be of one
// that is still there, and an empty arg is the empty id.
func known(ctx context.Context, cl *client.Client, arg string) (dayfly.ID, error) {
	if arg == "" {
		return "", nil
	}
	if id, err := dayfly.ParseID(arg); err == nil {
		return id, nil
	}
	id, err := ref(arg)
	if err != nil {
		return "", err
	}
	ws, err := cl.Workspaces.Get(ctx, id)
	return ws.ID, err
}

// maxOffered bounds what a completion lists.
const maxOffered = 200

// completeWorkspaces offers the workspaces that are not named yet: their names,
// and the ids of those without one.
func (a *app) completeWorkspaces(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if c.Args != nil && len(args) > 0 && c.Args(c, append(slices.Clone(args), "x")) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var refs []string
	_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		page, err := cl.Workspaces.Page(ctx, dayfly.Query{Limit: maxOffered})
		names := map[string]int{}
		for _, ws := range page.Workspaces {
			names[ws.Name]++
		}
		for _, ws := range page.Workspaces {
			called := string(ws.ID)
			if ws.Name != "" && names[ws.Name] == 1 && !strings.ContainsFunc(ws.Name, unicode.IsSpace) {
				called = ws.Name
			}
			if !slices.Contains(args, called) {
				refs = append(refs, cobra.CompletionWithDesc(called, ws.Image.Name+", "+string(ws.State)))
			}
		}
		return err
	})
	return refs, cobra.ShellCompDirectiveNoFileComp
}

// completeNamespaces offers namespaces to admins.
func (a *app) completeNamespaces(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Namespaces.List(ctx)
		for _, ns := range list {
			if !slices.Contains(args, ns.Name) {
				names = append(names, ns.Name)
			}
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeWords offers what there is for a flag whose values are listed.
func completeWords[T ~string](c *cobra.Command, flag string, words ...T) {
	var list []string
	for _, w := range words {
		list = append(list, string(w))
	}
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
}
