package main

import (
	"context"

	"github.com/dayfly/dayfly"
)

func (w hostWorkspaces) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	n, err := w.h.node()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Pause(ctx, id)
}

func (w hostWorkspaces) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	n, err := w.h.starter()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Resume(ctx, id)
}

func (w hostWorkspaces) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	n, err := w.h.starter()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Rollback(ctx, id, ref)
}

func (w hostWorkspaces) Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	if err := refuseOnce(ctx); err != nil {
		return nil, err
	}
	n, err := w.h.starter()
	if err != nil {
		return nil, err
	}
	return n.Fork(ctx, id, count)
}

func (w hostWorkspaces) Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error) {
	if err := refuseOnce(ctx); err != nil {
		return dayfly.Snapshot{}, err
	}
	n, err := w.h.node()
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	return n.Snapshot(ctx, id, name)
}

func (w hostWorkspaces) Snapshots(ctx context.Context) ([]dayfly.Snapshot, error) {
	n, err := w.h.node()
	if err != nil {
		return nil, err
	}
	return n.Snapshots(ctx)
}

func (w hostWorkspaces) GetSnapshot(ctx context.Context, ref string) (dayfly.Snapshot, error) {
	n, err := w.h.node()
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	return n.GetSnapshot(ctx, ref)
}

func (w hostWorkspaces) DeleteSnapshot(ctx context.Context, ref string) error {
	n, err := w.h.node()
	if err != nil {
		return err
	}
	return n.DeleteSnapshot(ctx, ref)
}

func (w hostWorkspaces) Usage(ctx context.Context) ([]dayfly.Usage, error) {
	n, err := w.h.node()
	if err != nil {
		return nil, err
	}
	return n.Usage(ctx)
}

func (w hostWorkspaces) Prune(ctx context.Context) ([]dayfly.Usage, error) {
	n, err := w.h.node()
	if err != nil {
		return nil, err
	}
	return n.Prune(ctx)
}
