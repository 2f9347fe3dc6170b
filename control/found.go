package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// A state directory may hold what no server was told of: workspaces that were
// kept, and snapshots that were made, by commands without one, or before the
// database was lost; and a snapshot whose maker was killed before its record was
// written. All of it is taken into the books, so that nobody has to look for it.

// findWorkspaces gives what the node has, and the store does not know, a record. What
// cannot be recorded, as a limit is reached, is left alone and found again.
func (c *Control) findWorkspaces(ctx context.Context, records []store.Record) ([]store.Record, error) {
	known := map[dayfly.ID]bool{}
	for _, r := range records {
		known[r.ID] = true
	}
	list, err := c.node.Ours(ctx)
	if err != nil {
		return nil, err
	}
	for _, ws := range list {
		if known[ws.ID] {
			continue
		}
		r, err := c.record(ctx, ws)
		if err != nil {
			c.log.Warn("workspace without a record", "workspace", ws.ID, "err", c.counted(err))
			continue
		}
		c.log.Info("workspace found", "workspace", ws.ID, "state", ws.State)
		records = append(records, r)
	}
	return records, nil
}

// record writes the record of a workspace that was found. A name that is taken
// is left out.
func (c *Control) record(ctx context.Context, ws dayfly.Workspace) (store.Record, error) {
	ws.Namespace = dayfly.DefaultNamespace
	r := store.Record{Workspace: ws, Durable: true, StoppedByCaller: ws.State == dayfly.Stopped}
	made, _, err := c.db.Create(ctx, store.Creation{Records: []store.Record{r}})
	if dayfly.KindOf(err) == dayfly.Conflict && ws.Name != "" {
		r.Name, r.Spec.Name = "", ""
		made, _, err = c.db.Create(ctx, store.Creation{Records: []store.Record{r}})
	}
	if err != nil {
		return r, err
	}
	return made[0], nil
}

// findSnapshots does the same for snapshots: they go to their workspace's
// namespace. One that was being made for a request that is done once is deleted:
// whoever asks again has it made again.
func (c *Control) findSnapshots(ctx context.Context, records []store.Record, known []store.SnapshotRecord) error {
	have := map[dayfly.ID]bool{}
	for _, sn := range known {
		have[sn.ID] = true
	}
	home := map[dayfly.ID]string{}
	for _, r := range records {
		home[r.ID] = r.Namespace
	}
	list, err := c.node.Snapshots(ctx)
	if err != nil {
		return err
	}
	cut, err := c.db.SnapshotsUnderWay(ctx)
	if err != nil {
		return err
	}
	for _, sn := range list {
		switch {
		case have[sn.ID]:
		case cutShort(sn, cut):
			if err := c.node.DeleteSnapshot(ctx, string(sn.ID)); err != nil {
				return err
			}
			c.log.Info("snapshot that was cut short deleted", "snapshot", sn.ID)
		default:
			c.recordSnapshot(ctx, home[sn.Workspace], sn)
		}
	}
	for _, u := range cut {
		if err := c.db.EndSnapshot(ctx, u.Once); err != nil {
			return err
		}
	}
	return nil
}

// cutShort reports whether nobody was told of a snapshot that has no record. The
// node keeps times in milliseconds.
func cutShort(sn dayfly.Snapshot, cut []store.SnapshotUnderWay) bool {
	return slices.ContainsFunc(cut, func(u store.SnapshotUnderWay) bool {
		return u.Workspace == sn.Workspace && !sn.CreatedAt.Before(u.Began.Truncate(time.Millisecond))
	})
}

func (c *Control) recordSnapshot(ctx context.Context, namespace string, sn dayfly.Snapshot) {
	r := store.SnapshotRecord{Namespace: cmp.Or(namespace, dayfly.DefaultNamespace), Snapshot: sn}
	err := c.db.CreateSnapshot(ctx, r, store.Once{})
	if dayfly.KindOf(err) == dayfly.Conflict && sn.Name != "" {
		r.Name = ""
		err = c.db.CreateSnapshot(ctx, r, store.Once{})
	}
	if err != nil {
		c.log.Warn("snapshot without a record", "snapshot", sn.ID, "err", c.counted(err))
		return
	}
	c.log.Info("snapshot found", "snapshot", sn.ID)
}

// forgetSnapshots removes the records of those that the node has not got any
// more: their deletion was cut short.
func (c *Control) forgetSnapshots(ctx context.Context, known []store.SnapshotRecord) {
	for _, sn := range known {
		_, err := c.node.GetSnapshot(ctx, string(sn.ID))
		if dayfly.KindOf(err) != dayfly.NotFound {
			continue
		}
		err = c.db.DeleteSnapshot(ctx, sn.ID, c.snapshotEvent(ctx, dayfly.SnapshotDeleted, sn.Namespace, sn.Snapshot))
		if err != nil && !errors.Is(err, context.Canceled) {
			c.log.Warn("record of a snapshot that is gone", "snapshot", sn.ID, "err", c.counted(err))
		}
	}
}
