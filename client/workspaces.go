package client

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Workspaces makes, finds and deletes workspaces.
type Workspaces struct{ c *Client }

// Create makes a workspace and returns once it runs. If ctx ends before that,
// nothing is left of it.
func (w *Workspaces) Create(ctx context.Context, spec dayfly.Spec) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.CreateWorkspace(ctx, spec))
}

// List returns all workspaces of the server, newest first.
func (w *Workspaces) List(ctx context.Context) ([]dayfly.Workspace, error) {
	l, err := decode[rest.WorkspaceList](w.c.rest.ListWorkspaces(ctx))
	return l.Workspaces, err
}

// Get returns one workspace.
func (w *Workspaces) Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.GetWorkspace(ctx, string(id)))
}

// Start starts a stopped workspace from its disk and returns once it runs. A
// paused one goes on where it was, as with Resume.
func (w *Workspaces) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.StartWorkspace(ctx, string(id)))
}

// Stop ends a workspace's processes in order and keeps its disk and key.
func (w *Workspaces) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.StopWorkspace(ctx, string(id)))
}

// Pause saves a running workspace, memory and disk, and ends its machine. It
// returns once all is safely on the server's disk; ctx ends only the waiting.
func (w *Workspaces) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.PauseWorkspace(ctx, string(id)))
}

// Resume lets a paused workspace go on where it was and returns once it runs.
func (w *Workspaces) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.ResumeWorkspace(ctx, string(id)))
}

// Fork makes count running copies of a running workspace, at most
// dayfly.MaxFork. After an error, or if ctx ends before it returns, there is none.
func (w *Workspaces) Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	l, err := decode[rest.WorkspaceList](w.c.rest.ForkWorkspace(ctx, string(id), rest.ForkWorkspace{Count: &count}))
	return l.Workspaces, err
}

// Rollback puts a workspace back to where it was when a snapshot, named by id
// or name, was taken of it, and returns once it runs. What happened in it since
// is lost; ctx ends only the waiting.
func (w *Workspaces) Rollback(ctx context.Context, id dayfly.ID, snapshot string) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.RollbackWorkspace(ctx, string(id), rest.RollbackWorkspace{Snapshot: snapshot}))
}

// Delete ends a workspace in any state and forgets its key and disk. Deleting
// it again is a NotFound error.
func (w *Workspaces) Delete(ctx context.Context, id dayfly.ID) error {
	return done(w.c.rest.DeleteWorkspace(ctx, string(id)))
}
