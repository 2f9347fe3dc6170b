package api

import (
	"context"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
)

func (f *fake) Pause(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return f.set(id, dayfly.Paused)
}

func (f *fake) Resume(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	ws, err := f.Get(context.Background(), id)
	if err == nil && ws.State != dayfly.Paused {
		err = dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, ws.State)
	}
	if err != nil {
		return ws, err
	}
	return f.again(id, dayfly.Resume, "")
}

func (f *fake) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	sn, err := f.GetSnapshot(ctx, ref)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if _, err := f.set(id, dayfly.Failed); err != nil { // what it is until it has been put back
		return dayfly.Workspace{}, err
	}
	return f.again(id, dayfly.FromSnapshot, string(sn.ID))
}

// again starts a workspace that was there.
func (f *fake) again(id dayfly.ID, kind dayfly.StartKind, parent string) (dayfly.Workspace, error) {
	if _, err := f.set(id, dayfly.Creating); err != nil {
		return dayfly.Workspace{}, err
	}
	ws, err := f.set(id, dayfly.Running)
	f.mu.Lock()
	defer f.mu.Unlock()
	ws.StartKind, ws.Parent = kind, parent
	f.of[id] = ws
	return ws, err
}

func (f *fake) Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	f.parents = append(f.parents, id)
	parent, err := f.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	var list []dayfly.Workspace
	for range count {
		ws, err := f.Create(ctx, parent.Spec, dayfly.CreateOptions{})
		if err != nil {
			return nil, err
		}
		ws.StartKind, ws.Parent = dayfly.Forked, string(id)
		list = append(list, ws)
	}
	return list, nil
}

func (f *fake) Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error) {
	if f.hold != nil {
		f.created <- ""
		<-f.hold
	}
	f.parents = append(f.parents, id)
	ws, err := f.Get(ctx, id)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sn := dayfly.Snapshot{
		ID: dayfly.NewID(), Name: name, Workspace: id, Spec: ws.Spec, Image: ws.Image,
		CreatedAt: time.Unix(int64(len(f.snaps)), 0).UTC(), PausedMS: 1.5,
	}
	f.snaps = append(f.snaps, sn)
	return sn, nil
}

func (f *fake) Snapshots(context.Context) ([]dayfly.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snaps, nil
}

func (f *fake) GetSnapshot(_ context.Context, ref string) (dayfly.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sn := range f.snaps {
		if ref == sn.Name || ref == string(sn.ID) {
			return sn, nil
		}
	}
	return dayfly.Snapshot{}, dayfly.Errorf(dayfly.NotFound, "no snapshot %s", ref)
}

func (f *fake) DeleteSnapshot(ctx context.Context, ref string) error {
	sn, err := f.GetSnapshot(ctx, ref)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snaps = slices.DeleteFunc(f.snaps, func(one dayfly.Snapshot) bool { return one.ID == sn.ID })
	return err
}

func (*fake) Usage(context.Context) ([]dayfly.Usage, error) {
	return []dayfly.Usage{{Kind: "images", Count: 1, Bytes: 2, Reclaimable: 0}}, nil
}

func (*fake) Prune(context.Context) ([]dayfly.Usage, error) { return nil, nil }
