package node

import (
	"context"
	"fmt"
	"os"

	"github.com/dayfly/dayfly"
)

// Update changes Name, Keep, CPUs, MemoryMiB and DiskMiB of a workspace to what
// spec, a whole one, says; a size that is 0 stays. Sizes take effect with the
// next start and change only while there is neither a machine nor the memory of
// one; a disk only grows, and only where it is one file that is nobody else's.
func (n *Node) Update(ctx context.Context, id dayfly.ID, spec dayfly.Spec) (dayfly.Workspace, error) {
	return n.askFor(ctx, id, request{verb: verbUpdate, spec: spec})
}

func (w *workspace) update(to dayfly.Spec) error {
	ws := *w.view.Load()
	spec := ws.Spec
	spec.Name, spec.Keep = to.Name, to.Keep
	for _, f := range []struct {
		field *int
		to    int
	}{{&spec.CPUs, to.CPUs}, {&spec.MemoryMiB, to.MemoryMiB}, {&spec.DiskMiB, to.DiskMiB}} {
		if f.to != 0 {
			*f.field = f.to
		}
	}
	checked := spec
	if checked.Image != "" {
		checked.Snapshot = "" // a copy has an image and the name of what it was made of
	}
	if _, err := checked.Normal(); err != nil {
		return err
	}
	was := ws.Spec
	if spec.CPUs != was.CPUs || spec.MemoryMiB != was.MemoryMiB || spec.DiskMiB != was.DiskMiB {
		if ws.State == dayfly.Running || ws.State == dayfly.Paused {
			return dayfly.Errorf(dayfly.Conflict, "workspace %s is %s: stop it first, then its cpus, memory and disk can be changed", w.id, ws.State)
		}
	}
	if err := w.growDisk(was.DiskMiB, spec.DiskMiB); err != nil {
		return err
	}
	ws.Name, ws.Spec = spec.Name, spec
	if err := w.record(ws).replace(w.dir, w.record(*w.view.Load())); err != nil {
		return noSpace(err)
	}
	w.show(ws)
	return nil
}

// growDisk makes the disk's file larger; the agent does the same with the file
// system at the next start.
func (w *workspace) growDisk(from, to int) error {
	if to == from {
		return nil
	}
	if to < from {
		return dayfly.Errorf(dayfly.Invalid, "disk is %d MiB: it cannot shrink to %d", from, to)
	}
	if err := restoreChain(w.dir); err != nil {
		return err
	}
	layers, err := chain(w.dir)
	if err != nil {
		return err
	}
	shared, err := isShared(layers[0])
	if err != nil {
		return err
	}
	if shared || len(layers) > 1 {
		return dayfly.Errorf(dayfly.Invalid, "the disk has layers, as the workspace was paused, snapshot or copied, or is a copy: such a disk cannot grow; copy what you need into a new workspace")
	}
	fi, err := os.Stat(layers[0])
	if err == nil && fi.Size() < int64(to)<<20 { // else it was cut short after this
		err = os.Truncate(layers[0], int64(to)<<20)
	}
	if err != nil {
		return noSpace(fmt.Errorf("node: disk: %w", err))
	}
	return nil
}
