package fakehost

import (
	"context"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
)

// Pause ends a workspace's commands, where a real one would keep them.
func (h *Host) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if err := w.State.To(dayfly.Paused); err != nil {
		return dayfly.Workspace{}, err
	}
	w.close()
	w.State, w.Spec.Keep = dayfly.Paused, true
	return w.Workspace, nil
}

// Resume starts a paused workspace.
func (h *Host) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	switch {
	case err != nil:
		return dayfly.Workspace{}, err
	case w.State != dayfly.Paused:
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s: only a paused one can be resumed", id, w.State)
	}
	return h.start(ctx, w, dayfly.Resume)
}

// Rollback starts a workspace anew, if the snapshot is of it.
func (h *Host) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	sn, err := h.GetSnapshot(ctx, ref)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	switch {
	case err != nil:
		return dayfly.Workspace{}, err
	case sn.Workspace != id:
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "snapshot %s is of workspace %s", ref, sn.Workspace)
	}
	w.close()
	w.State = dayfly.Failed // what it is until it has been put back
	return h.start(ctx, w, dayfly.FromSnapshot)
}

// Fork makes workspaces with the same spec.
func (h *Host) Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	h.note(ctx)
	parent, err := h.running(ctx, id)
	if err != nil {
		return nil, err
	}
	var copies []dayfly.Workspace
	for range count {
		w, err := h.create(ctx, parent.Spec, dayfly.Forked, string(id))
		if err != nil {
			return nil, err
		}
		copies = append(copies, w)
	}
	return copies, nil
}

func (h *Host) running(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	switch {
	case err != nil:
		return dayfly.Workspace{}, err
	case w.State != dayfly.Running:
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s, not running", id, w.State)
	}
	return w.Workspace, nil
}

// fromSnapshot makes a workspace with the image of a snapshot.
func (h *Host) fromSnapshot(ctx context.Context, spec dayfly.Spec) (dayfly.Workspace, error) {
	sn, err := h.GetSnapshot(ctx, spec.Snapshot)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	w, err := h.create(ctx, spec, dayfly.FromSnapshot, string(sn.ID))
	if err != nil {
		return dayfly.Workspace{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of[w.ID].Image = sn.Image
	return h.of[w.ID].Workspace, nil
}

// Snapshot notes what a running workspace is made of.
func (h *Host) Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error) {
	h.note(ctx)
	ws, err := h.running(ctx, id)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if name != "" && slices.ContainsFunc(h.snaps, func(sn dayfly.Snapshot) bool { return sn.Name == name }) {
		return dayfly.Snapshot{}, dayfly.Errorf(dayfly.Conflict, "there is a snapshot %s already", name)
	}
	sn := dayfly.Snapshot{
		ID: dayfly.NewID(), Name: name, Workspace: id, CreatedAt: time.Now().UTC(), Spec: ws.Spec, Image: ws.Image,
		Accel: ws.Accel, RAMBytes: 64 << 20, DiskBytes: 3 << 20, FreeBytes: 65 << 20, PausedMS: 12,
	}
	h.snaps = append(h.snaps, sn)
	return sn, nil
}

// Snapshots returns all snapshots, oldest first.
func (h *Host) Snapshots(context.Context) ([]dayfly.Snapshot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.snaps), nil
}

// GetSnapshot returns a snapshot.
func (h *Host) GetSnapshot(ctx context.Context, ref string) (dayfly.Snapshot, error) {
	list, _ := h.Snapshots(ctx)
	for _, sn := range list {
		if ref == string(sn.ID) || ref == sn.Name {
			return sn, nil
		}
	}
	return dayfly.Snapshot{}, dayfly.Errorf(dayfly.NotFound, "there is no snapshot %s", ref)
}

// DeleteSnapshot forgets a snapshot.
func (h *Host) DeleteSnapshot(ctx context.Context, ref string) error {
	sn, err := h.GetSnapshot(ctx, ref)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snaps = slices.DeleteFunc(h.snaps, func(one dayfly.Snapshot) bool { return one.ID == sn.ID })
	return nil
}

// Usage is a host with one image and a template.
func (h *Host) Usage(context.Context) ([]dayfly.Usage, error) {
	return []dayfly.Usage{
		{Kind: "images", Count: 1, Bytes: 3 << 20},
		{Kind: "templates", Count: 2, Bytes: 96 << 20, Reclaimable: 96 << 20},
	}, nil
}

// Prune gives back the templates of Usage, and says so every time.
func (h *Host) Prune(context.Context) ([]dayfly.Usage, error) {
	return []dayfly.Usage{{Kind: "templates", Count: 2, Bytes: 96 << 20}}, nil
}
