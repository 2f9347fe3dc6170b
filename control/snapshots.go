package control

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Names and owners of snapshots are the store's; the node knows them by id.

// Snapshot keeps a running workspace as it is at one instant; it goes on. With
// Caller.Once a request that is repeated gets what the first one made.
func (c *Control) Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error) {
	k, gone := c.manage(ctx, id)
	if gone != nil && !mayHaveMade(ctx, gone) {
		return dayfly.Snapshot{}, gone
	}
	if err := dayfly.CheckSnapshotName(name); err != nil {
		return dayfly.Snapshot{}, err
	}
	once, err := c.once(ctx, "snapshot", id, name)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	defer once.leave()
	if once.again {
		r, err := c.db.Snapshot(ctx, "", once.made[0])
		return c.fresh(ctx, r.Snapshot), c.counted(once.orGone(err))
	}
	if gone != nil {
		return dayfly.Snapshot{}, gone
	}
	return c.snap(ctx, k, name, once.Once)
}

// snap makes a snapshot and its record.
func (c *Control) snap(ctx context.Context, k *keeper, name string, once store.Once) (dayfly.Snapshot, error) {
	home := k.view.Load().Namespace
	if name != "" { // early; the store decides
		if _, err := c.db.Snapshot(ctx, home, name); err == nil {
			return dayfly.Snapshot{}, dayfly.Errorf(dayfly.Conflict, "there is a snapshot named %q already: choose another name, or delete it first", name)
		} else if dayfly.KindOf(err) != dayfly.NotFound {
			return dayfly.Snapshot{}, c.counted(err)
		}
	}
	if !c.ops.begin() {
		return dayfly.Snapshot{}, c.open()
	}
	defer c.ops.end()
	if once.Key == "" {
		return c.take(ctx, k, name, once)
	}
	// What a kill leaves from here on is nobody's: see findSnapshots.
	if err := c.counted(c.db.BeginSnapshot(ctx, store.SnapshotUnderWay{Once: once, Workspace: k.id, Began: c.now()})); err != nil {
		return dayfly.Snapshot{}, err
	}
	sn, err := c.take(ctx, k, name, once)
	if err != nil {
		err = errors.Join(err, c.counted(c.db.EndSnapshot(context.WithoutCancel(ctx), once)))
	}
	return sn, err
}

// take has the node make a snapshot, and writes its record.
func (c *Control) take(ctx context.Context, k *keeper, name string, once store.Once) (dayfly.Snapshot, error) {
	sn, err := c.node.Snapshot(ctx, k.id, "")
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	home, late := k.view.Load().Namespace, context.WithoutCancel(ctx)
	sn.Name, sn.Spec = name, k.view.Load().Spec
	err = c.counted(c.db.CreateSnapshot(late, store.SnapshotRecord{Namespace: home, Snapshot: sn}, once, c.snapshotEvent(ctx, dayfly.SnapshotCreated, home, sn)))
	if err != nil {
		return dayfly.Snapshot{}, errors.Join(err, c.node.DeleteSnapshot(late, string(sn.ID)))
	}
	c.bell.ring()
	return sn, nil
}

func (c *Control) snapshotEvent(ctx context.Context, t dayfly.EventType, namespace string, sn dayfly.Snapshot) dayfly.Event {
	return dayfly.Event{
		ID: "evt_" + rand.Text(), Type: t, At: c.now(), Namespace: namespace, Workspace: sn.Workspace,
		Reason: string(sn.ID), Actor: dayfly.CallerOf(ctx).Key,
	}
}

// Snapshots returns those the caller may see, newest first.
func (c *Control) Snapshots(ctx context.Context) ([]dayfly.Snapshot, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return nil, err
	}
	recs, err := c.db.Snapshots(ctx, dayfly.CallerOf(ctx).Namespace)
	if err != nil {
		return nil, c.counted(err)
	}
	list := make([]dayfly.Snapshot, len(recs))
	for i, r := range recs {
		list[i] = c.fresh(ctx, r.Snapshot)
	}
	return list, nil
}

// GetSnapshot finds a snapshot by id or name.
func (c *Control) GetSnapshot(ctx context.Context, ref string) (dayfly.Snapshot, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return dayfly.Snapshot{}, err
	}
	r, err := c.visible(ctx, ref)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	return c.fresh(ctx, r.Snapshot), nil
}

// DeleteSnapshot removes a snapshot. Workspaces made from it do not need it.
func (c *Control) DeleteSnapshot(ctx context.Context, ref string) error {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return err
	}
	r, err := c.visible(ctx, ref)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := c.node.DeleteSnapshot(ctx, string(r.ID)); err != nil && dayfly.KindOf(err) != dayfly.NotFound {
		return err
	}
	err = c.counted(c.db.DeleteSnapshot(ctx, r.ID, c.snapshotEvent(ctx, dayfly.SnapshotDeleted, r.Namespace, r.Snapshot)))
	c.bell.ring()
	return err
}

// snapshot finds a snapshot of one namespace.
func (c *Control) snapshot(ctx context.Context, namespace, ref string) (dayfly.Snapshot, error) {
	r, err := c.db.Snapshot(ctx, namespace, ref)
	return r.Snapshot, c.counted(err)
}

// visible finds a snapshot that the caller may see: in its home first, then in
// all namespaces if it sees them.
func (c *Control) visible(ctx context.Context, ref string) (store.SnapshotRecord, error) {
	caller := dayfly.CallerOf(ctx)
	r, err := c.db.Snapshot(ctx, caller.Home(), ref)
	if dayfly.KindOf(err) == dayfly.NotFound && caller.Namespace == "" {
		r, err = c.db.Snapshot(ctx, "", ref)
	}
	return r, c.counted(err)
}

// fresh adds what only the node knows: what others share of it changes.
func (c *Control) fresh(ctx context.Context, sn dayfly.Snapshot) dayfly.Snapshot {
	if is, err := c.node.GetSnapshot(ctx, string(sn.ID)); err == nil {
		sn.RAMBytes, sn.DiskBytes, sn.FreeBytes = is.RAMBytes, is.DiskBytes, is.FreeBytes
	}
	return sn
}
