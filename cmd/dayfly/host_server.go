package main

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// needsServer is the error of what a process that ends with its workspaces
// cannot promise.
func needsServer(what string) error {
	return dayfly.Errorf(dayfly.Unavailable, "%s: this server is part of a command and ends with it: run dayfly serve, and use that", what)
}

// withoutServer refuses a creation that asks for what outlives this process.
func withoutServer(spec dayfly.Spec, o dayfly.CreateOptions) error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"metadata", len(spec.Metadata) > 0},
		{"idle", spec.Idle != dayfly.Idle{}},
		{"restart", spec.Restart.Policy != "" && spec.Restart.Policy != dayfly.RestartNo},
		{"command", len(spec.Command) > 0 || spec.ImageCommand},
		{"remove_on_exit", spec.RemoveOnExit},
		{"ready", len(spec.Ready.Command) > 0},
		{"on_timeout", spec.OnTimeout != "" && spec.OnTimeout != dayfly.DeleteIt},
		{"wait=created", o.Wait == dayfly.WaitCreated},
		{"an idempotency key", o.Once != ""},
	} {
		if f.set {
			return needsServer(f.name)
		}
	}
	return nil
}

// refuseOnce refuses idempotency keys, which nobody would remember.
func refuseOnce(ctx context.Context) error {
	if dayfly.CallerOf(ctx).Once != "" {
		return needsServer("an idempotency key")
	}
	return nil
}

// List returns all workspaces that a query selects, as one page: there are never
// many without a server.
func (w hostWorkspaces) List(ctx context.Context, q dayfly.Query) (dayfly.Page, error) {
	n, err := w.h.node()
	if err != nil {
		return dayfly.Page{}, err
	}
	list, err := n.List(ctx)
	if err != nil {
		return dayfly.Page{}, err
	}
	list = slices.DeleteFunc(list, func(ws dayfly.Workspace) bool {
		return len(q.States) > 0 && !slices.Contains(q.States, ws.State) || q.Name != "" && q.Name != ws.Name ||
			q.Image != "" && q.Image != ws.Spec.Image || len(q.Metadata) > 0
	})
	slices.SortFunc(list, func(a, b dayfly.Workspace) int {
		switch q.Order {
		case dayfly.OldestFirst:
			return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		case dayfly.ByName:
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
		}
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	return dayfly.Page{Workspaces: list}, nil
}

// minPrefix is the least of an id that stands for it.
const minPrefix = 4

// Resolve finds a workspace by its id, its name, or the beginning of its id.
func (w hostWorkspaces) Resolve(ctx context.Context, ref string) (dayfly.ID, error) {
	if id, err := dayfly.ParseID(ref); err == nil {
		return id, nil // whether it is there, the node says
	}
	page, err := w.List(ctx, dayfly.Query{})
	if err != nil {
		return "", err
	}
	var found []string
	for _, ws := range page.Workspaces {
		if ws.Name == ref || len(ref) >= minPrefix && strings.HasPrefix(string(ws.ID), ref) {
			found = append(found, string(ws.ID))
		}
	}
	switch len(found) {
	case 0:
		return "", dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", ref)
	case 1:
		return dayfly.ID(found[0]), nil
	}
	return "", dayfly.Errorf(dayfly.Conflict, "%s may be any of %s: write more of the id", ref, strings.Join(found, ", "))
}

// Restart stops a workspace and starts it from its disk.
func (w hostWorkspaces) Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	if _, err := w.Stop(ctx, id); err != nil {
		return dayfly.Workspace{}, err
	}
	return w.Start(ctx, id)
}

// Update is for servers.
func (hostWorkspaces) Update(context.Context, dayfly.ID, dayfly.Update) (dayfly.Workspace, error) {
	return dayfly.Workspace{}, needsServer("a change of a workspace")
}

// KeepAlive is for servers.
func (hostWorkspaces) KeepAlive(context.Context, dayfly.ID, *int) (dayfly.Workspace, error) {
	return dayfly.Workspace{}, needsServer("keep-alive")
}
