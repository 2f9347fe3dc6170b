package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/snapshot"
)

// sweep clears away what owners that died left: their machines end, and their
// workspaces go, but for those that are to be kept.
func (n *Node) sweep(ctx context.Context) error {
	homes, err := os.ReadDir(filepath.Join(n.Dir, "workspaces"))
	if err != nil {
		return err
	}
	locks, err := os.ReadDir(filepath.Join(n.Dir, "locks"))
	if err != nil {
		return err
	}
	ids := map[dayfly.ID]bool{}
	for _, e := range append(homes, locks...) {
		if id, err := dayfly.ParseID(e.Name()); err == nil {
			ids[id] = true
		}
	}
	var errs []error
	for id := range ids {
		if err := n.sweepOne(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) sweepOne(ctx context.Context, id dayfly.ID) error {
	lock, err := lockWorkspace(n.Dir, id)
	if dayfly.KindOf(err) == dayfly.Conflict {
		return nil // its owner lives
	}
	if err != nil {
		return err
	}
	defer lock.release()
	dir := workspaceDir(n.Dir, id)
	if n.KillOrphans != nil {
		if err := n.KillOrphans(ctx, dir); err != nil {
			return err
		}
	}
	ws, err := readRecord(n.Dir, id)
	switch {
	case dayfly.KindOf(err) == dayfly.Unavailable:
		return nil // of another release: not ours to judge
	case err != nil:
	case ws.State == dayfly.Stopped, ws.State == dayfly.Paused, ws.State == dayfly.Failed && ws.Spec.Keep:
		return errors.Join(restoreChain(dir), snapshot.Sweep(filepath.Join(dir, pausesDir)))
	case ws.State == dayfly.Running && ws.Spec.Keep:
		ws.State, ws.Reason = dayfly.Failed, "the process that ran it died"
		return errors.Join(dropChain(dir), snapshot.Sweep(filepath.Join(dir, pausesDir)), writeRecord(dir, ws))
	}
	n.Log.Info("sweeping a workspace whose owner died", "workspace", id)
	if err := errors.Join(n.Keys.Forget(filepath.Join(dir, keyFile)), disk.Wipe(filepath.Join(dir, diskFile))); err != nil {
		return err
	}
	return removeHome(dir)
}
