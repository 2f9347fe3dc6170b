package client_test

import (
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/test/fakehost"
)

// idle returns a running workspace in which nothing is done.
func idle(t *testing.T, c *client.Client) dayfly.ID {
	t.Helper()
	ws, err := c.Workspaces.Create(t.Context(), dayfly.Spec{Image: fakehost.Base})
	if err != nil {
		t.Fatal(err)
	}
	return ws.ID
}

func TestPausedWorkspaceGoesOn(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ctx, id := t.Context(), idle(t, c)
	_, err := c.Workspaces.Resume(ctx, id)
	kindIs(t, err, dayfly.Conflict)
	for range 2 {
		if ws, err := c.Workspaces.Pause(ctx, id); err != nil || ws.State != dayfly.Paused {
			t.Fatalf("Pause = %+v, %v", ws, err)
		}
		_, err := c.Start(ctx, id, client.Command{Path: "true"})
		kindIs(t, err, dayfly.Conflict)
		if ws, err := c.Workspaces.Resume(ctx, id); err != nil || ws.State != dayfly.Running || ws.StartKind != dayfly.Resume {
			t.Fatalf("Resume = %+v, %v", ws, err)
		}
	}
	_, err = c.Workspaces.Pause(ctx, dayfly.NewID())
	kindIs(t, err, dayfly.NotFound)
}

func TestForksAreCopies(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ctx, id := t.Context(), idle(t, c)
	copies, err := c.Workspaces.Fork(ctx, id, 3)
	if err != nil || len(copies) != 3 {
		t.Fatalf("Fork = %+v, %v", copies, err)
	}
	for _, ws := range copies {
		if ws.ID == id || ws.Parent != string(id) || ws.StartKind != dayfly.Forked || ws.State != dayfly.Running {
			t.Errorf("copy %+v", ws)
		}
	}
	for _, count := range []int{-1, 0, dayfly.MaxFork + 1} {
		_, err := c.Workspaces.Fork(ctx, id, count)
		kindIs(t, err, dayfly.Invalid)
	}
	if list, err := c.Workspaces.List(ctx); err != nil || len(list) != 4 {
		t.Errorf("%d workspaces, %v", len(list), err)
	}
}

func TestLifeOfASnapshot(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ctx, id, other := t.Context(), idle(t, c), idle(t, c)
	sn, err := c.Snapshots.Create(ctx, id, "before: tests? 100%")
	if kindIs(t, err, dayfly.Invalid); sn.ID != "" {
		t.Errorf("Create = %+v", sn)
	}
	const name = "before?tests=100%#ß" // all that a URL could trip over
	if sn, err = c.Snapshots.Create(ctx, id, name); err != nil || sn.Workspace != id || sn.Name != name {
		t.Fatalf("Create = %+v, %v", sn, err)
	}
	_, err = c.Snapshots.Create(ctx, id, name)
	kindIs(t, err, dayfly.Conflict)
	for _, ref := range []string{name, string(sn.ID)} {
		if got, err := c.Snapshots.Get(ctx, ref); err != nil || got.ID != sn.ID {
			t.Errorf("Get(%s) = %+v, %v", ref, got, err)
		}
	}
	if list, err := c.Snapshots.List(ctx, ""); err != nil || len(list) != 1 {
		t.Errorf("List = %+v, %v", list, err)
	}
	if list, err := c.Snapshots.List(ctx, other); err != nil || len(list) != 0 {
		t.Errorf("List = %+v, %v", list, err)
	}
	if ws, err := c.Workspaces.Rollback(ctx, id, name); err != nil || ws.ID != id || ws.State != dayfly.Running {
		t.Errorf("Rollback = %+v, %v", ws, err)
	}
	_, err = c.Workspaces.Rollback(ctx, other, name)
	kindIs(t, err, dayfly.Conflict)
	if ws, err := c.Workspaces.Create(ctx, dayfly.Spec{Snapshot: name}); err != nil || ws.Parent != string(sn.ID) || ws.StartKind != dayfly.FromSnapshot {
		t.Errorf("Create = %+v, %v", ws, err)
	}
	_, err = c.Workspaces.Create(ctx, dayfly.Spec{Snapshot: name, Image: fakehost.Base})
	kindIs(t, err, dayfly.Invalid)
	if err := c.Snapshots.Delete(ctx, name); err != nil {
		t.Error(err)
	}
	kindIs(t, c.Snapshots.Delete(ctx, name), dayfly.NotFound)
	_, err = c.Workspaces.Create(ctx, dayfly.Spec{Snapshot: name})
	kindIs(t, err, dayfly.NotFound)
}

func TestDiskUsageAndWhatPruningGaveBack(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	if list, err := c.System.Usage(t.Context()); err != nil || len(list) != 2 || list[1].Reclaimable != 96<<20 {
		t.Errorf("Usage = %+v, %v", list, err)
	}
	if list, err := c.System.Prune(t.Context()); err != nil || len(list) != 1 || list[0].Kind != "templates" {
		t.Errorf("Prune = %+v, %v", list, err)
	}
}
