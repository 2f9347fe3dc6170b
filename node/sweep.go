package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/snapshot"
)

// sweep clears away what owners that died left: their machines end, and their
// workspaces go, but for those that are to be kept. It returns those that are to
// be taken over, which are locked.
func (n *Node) sweep(ctx context.Context) ([]*workspace, error) {
	homes, err := os.ReadDir(filepath.Join(n.Dir, "workspaces"))
	if err != nil {
		return nil, err
	}
	locks, err := os.ReadDir(filepath.Join(n.Dir, "locks"))
	if err != nil {
		return nil, err
	}
	ids := map[dayfly.ID]bool{}
	for _, e := range append(homes, locks...) {
		if id, err := dayfly.ParseID(e.Name()); err == nil {
			ids[id] = true
		}
	}
	var errs []error
	var found []*workspace
	until := time.Now().Add(deathThroes)
	for id := range ids {
		n.awaitDeath(ctx, id, until)
		w, err := n.sweepOne(ctx, id)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
		if w != nil {
			found = append(found, w)
		}
	}
	return found, errors.Join(errs...)
}

// deathThroes is how long all together a server waits for the last one to be
// gone, which was killed just now and has its locks for a moment more.
const deathThroes = time.Second

// awaitDeath waits for the lock of what may be to be taken over.
func (n *Node) awaitDeath(ctx context.Context, id dayfly.ID, until time.Time) {
	r, err := readRecord(n.Dir, id)
	if err != nil || !n.Outlive || r.Machine == nil {
		return
	}
	if lock, err := lockWithin(ctx, n.Dir, id, time.Until(until)); err == nil {
		lock.release()
	}
}

// sweepOne returns the workspace, with its lock, if it is to be taken over.
func (n *Node) sweepOne(ctx context.Context, id dayfly.ID) (found *workspace, err error) {
	lock, err := lockWorkspace(n.Dir, id)
	if dayfly.KindOf(err) == dayfly.Conflict {
		return nil, nil //nolint:nilnil // its owner lives
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if found == nil {
			lock.release()
		}
	}()
	r, err := readRecord(n.Dir, id)
	known := err == nil
	if known && r.Workspace.State == dayfly.Running && r.Machine != nil {
		if n.Outlive {
			w := newWorkspace(n, lock, r.Workspace)
			w.leftBy(r)
			return w, nil
		}
		if alive, err := n.alive(ctx, id); alive || err != nil {
			return nil, err // until a process comes that has it outlive its own end
		}
	}
	dir := workspaceDir(n.Dir, id)
	if n.KillOrphans != nil {
		if err := n.KillOrphans(ctx, dir); err != nil {
			return nil, err
		}
	}
	if dayfly.KindOf(err) == dayfly.Unavailable {
		return nil, nil //nolint:nilnil // of another release: not ours to judge
	}
	if known {
		switch ws := r.Workspace; {
		case ws.State == dayfly.Stopped, ws.State == dayfly.Paused, ws.State == dayfly.Failed && r.kept():
			return nil, errors.Join(restoreChain(dir), dropCopy(dir), snapshot.Sweep(filepath.Join(dir, pausesDir)))
		case ws.State == dayfly.Running && r.kept():
			r.Workspace.State, r.Workspace.Reason, r.Machine, r.Stopping = dayfly.Failed, "the process that ran it died", nil, false
			return nil, errors.Join(dropChain(dir), dropCopy(dir), snapshot.Sweep(filepath.Join(dir, pausesDir)), r.write(dir))
		}
	}
	n.Log.Info("sweeping a workspace whose owner died", "workspace", id)
	if err := errors.Join(n.Keys.Forget(filepath.Join(dir, keyFile)), disk.Wipe(filepath.Join(dir, diskFile))); err != nil {
		return nil, err
	}
	return nil, removeHome(dir)
}

// alive reports whether a VMM runs for a workspace.
func (n *Node) alive(ctx context.Context, id dayfly.ID) (bool, error) {
	if n.Orphans == nil {
		return false, nil
	}
	pids, err := n.Orphans(ctx, workspaceDir(n.Dir, id))
	return len(pids) > 0, err
}

// kept reports whether the workspace stays when its machine has ended.
func (r record) kept() bool { return r.Workspace.Spec.Keep || r.Outlives }
