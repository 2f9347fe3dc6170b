package node

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Pause saves a running workspace, memory and disk, and ends its machine.
func (n *Node) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.askFor(ctx, id, request{verb: verbPause})
}

// Resume lets a paused workspace go on where it was.
func (n *Node) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.askFor(ctx, id, request{verb: verbResume, clock: newClock()})
}

func (n *Node) askFor(ctx context.Context, id dayfly.ID, r request) (dayfly.Workspace, error) {
	w, err := n.find(id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return w.ask(ctx, r)
}

// Rollback puts a workspace back to where it was when a snapshot was taken of it,
// or at the pause before its last one: see dayfly.PreviousPause.
func (n *Node) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	clock := newClock()
	if ref == dayfly.PreviousPause {
		return n.askFor(ctx, id, request{verb: verbBack, clock: clock})
	}
	from, s, err := n.openSnapshot(ctx, ref)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	defer from.close()
	if s.Workspace != id {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "snapshot %s was taken of workspace %s: start a new workspace from it instead", ref, s.Workspace)
	}
	from.identity = wire.IdentitySame
	return n.askFor(ctx, id, request{verb: verbBack, clock: clock, from: from})
}

// Fork makes count running copies of a running workspace, or none.
func (n *Node) Fork(ctx context.Context, id dayfly.ID, count int) (_ []dayfly.Workspace, err error) {
	clock := newClock()
	if count < 1 || count > dayfly.MaxFork {
		return nil, dayfly.Errorf(dayfly.Invalid, "count is %d: fork 1 to %d", count, dayfly.MaxFork)
	}
	p, err := n.photograph(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	layers, err := chain(p.home.dir)
	if err != nil {
		return nil, err
	}
	from := &origin{
		former: wire.HostName(p.of.Spec.Name, string(id)),
		kind:   dayfly.Forked, identity: wire.IdentityNew, made: p.made,
		layers: layers, state: p.state, memory: p.memory, key: p.key,
	}
	children, errs := make([]dayfly.Workspace, count), make([]error, count)
	var wg sync.WaitGroup
	for i := range children {
		wg.Go(func() { children[i], errs[i] = n.startCopy(ctx, clock, from, p.of, p.of.Spec, string(id)) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(first(errs), n.deleteAll(ctx, children))
	}
	return children, nil
}

// first returns the first error there is: one is enough for a caller.
func first(errs []error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	return errs[i]
}

// deleteAll takes back the children of a fork that failed.
func (n *Node) deleteAll(ctx context.Context, children []dayfly.Workspace) error {
	var errs []error
	for _, c := range children {
		if c.ID != "" {
			errs = append(errs, n.Delete(context.WithoutCancel(ctx), c.ID))
		}
	}
	return errors.Join(errs...)
}

// startCopy makes a workspace that goes on where another was.
func (n *Node) startCopy(ctx context.Context, clock clock, from *origin, of dayfly.Workspace, spec dayfly.Spec, parent string) (dayfly.Workspace, error) {
	if from.kind == dayfly.Forked {
		spec.Name, spec.Cold = "", false // the one would be a host name twice, the other is not meant
	}
	w, err := n.add(dayfly.Workspace{
		ID: dayfly.NewID(), Name: spec.Name, State: dayfly.Creating, Spec: spec, Image: of.Image, Parent: parent, CreatedAt: now(),
	})
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return w.first(ctx, request{verb: verbStart, clock: clock, from: from})
}

// photograph takes a photo of a running workspace of this process.
func (n *Node) photograph(ctx context.Context, id dayfly.ID) (*photo, error) {
	w, err := n.find(id)
	if err != nil {
		return nil, err
	}
	var p *photo
	if _, err := w.ask(ctx, request{verb: verbPhoto, photo: &p}); err != nil {
		return nil, err
	}
	return p, nil
}

// fromSnapshot makes and starts a workspace from a snapshot. What the spec says
// goes for all that can still be chosen.
func (n *Node) fromSnapshot(ctx context.Context, clock clock, spec dayfly.Spec) (dayfly.Workspace, error) {
	from, s, err := n.openSnapshot(ctx, spec.Snapshot)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	defer from.close()
	from.identity, from.cold = wire.IdentityNew, spec.Cold
	merged := s.Spec
	merged.Image, merged.Snapshot = "", spec.Snapshot
	merged.Name, merged.Cold, merged.Keep, merged.Timeout = spec.Name, spec.Cold, spec.Keep, spec.Timeout
	merged.User, merged.Workdir = orElse(spec.User, merged.User), orElse(spec.Workdir, merged.Workdir)
	env := map[string]string{}
	for _, m := range []map[string]string{s.Spec.Env, spec.Env} {
		for k, v := range m {
			env[k] = v
		}
	}
	merged.Env = env
	return n.startCopy(ctx, clock, from, dayfly.Workspace{Image: s.Image}, merged, string(s.ID))
}

func (n *Node) snapshotDir(id dayfly.ID) string { return filepath.Join(n.Dir, "snapshots", string(id)) }
