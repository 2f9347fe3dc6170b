package client

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Snapshots takes, finds and deletes snapshots of workspaces. To start from one,
// set Spec.Snapshot; to go back to one, use Workspaces.Rollback.
type Snapshots struct{ c *Client }

// Create keeps a running workspace as it is at one instant; it goes on. The
// name is unique on a host, or empty for none. If ctx ends before it returns,
// there is no snapshot.
func (s *Snapshots) Create(ctx context.Context, id dayfly.ID, name string, o ...Option) (dayfly.Snapshot, error) {
	return decode[dayfly.Snapshot](s.c.rest.CreateSnapshot(ctx, string(id), &rest.CreateSnapshotParams{}, rest.CreateSnapshot{Name: name}, with(o)))
}

// List returns the snapshots taken of one workspace, or all for an empty id,
// newest first. Snapshots outlive their workspace.
func (s *Snapshots) List(ctx context.Context, of dayfly.ID) ([]dayfly.Snapshot, error) {
	l, err := decode[rest.SnapshotList](s.c.rest.ListSnapshots(ctx, &rest.ListSnapshotsParams{Workspace: string(of)}))
	return l.Snapshots, err
}

// Get returns one snapshot by its id or name.
func (s *Snapshots) Get(ctx context.Context, ref string) (dayfly.Snapshot, error) {
	return decode[dayfly.Snapshot](s.c.rest.GetSnapshot(ctx, ref))
}

// Delete forgets a snapshot, by its id or name. What was started from it goes
// on. Deleting it again is a NotFound error.
func (s *Snapshots) Delete(ctx context.Context, ref string) error {
	return done(s.c.rest.DeleteSnapshot(ctx, ref))
}
