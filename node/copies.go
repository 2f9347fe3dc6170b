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
	w, err := n.find(ctx, id)
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
func (n *Node) Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	return n.ForkAdmitted(ctx, id, count, nil)
}

// ForkAdmitted is a Fork of which admit is told ahead of all else: the copies
// to be, which are creating. An error of it ends the fork. Nil: no one is told.
func (n *Node) ForkAdmitted(ctx context.Context, id dayfly.ID, count int, admit func([]dayfly.Workspace) error) ([]dayfly.Workspace, error) {
	clock := newClock()
	if count < 1 || count > dayfly.MaxFork {
		return nil, dayfly.Errorf(dayfly.Invalid, "count is %d: fork 1 to %d", count, dayfly.MaxFork)
	}
	copies, err := n.copiesOf(ctx, id, count)
	if err != nil {
		return nil, err
	}
	if admit != nil {
		if err := admit(copies); err != nil {
			return nil, err
		}
	}
	p, err := n.photograph(ctx, id)
	if err != nil {
		return nil, err
	}
	defer n.discard(p)
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
		wg.Go(func() { children[i], errs[i] = n.startCopy(ctx, clock, from, copies[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(first(errs), n.deleteAll(ctx, children))
	}
	return children, nil
}

// copiesOf are the copies of a running workspace that a fork is to make.
func (n *Node) copiesOf(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	of, err := n.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if of.State != dayfly.Running {
		return nil, notRunning(of)
	}
	of.Spec.Name, of.Spec.Cold = "", false // the one would be a host name twice, the other is not meant
	copies := make([]dayfly.Workspace, count)
	for i := range copies {
		copies[i] = newCopy(dayfly.NewID(), of, of.Spec, string(id))
	}
	return copies, nil
}

func notRunning(ws dayfly.Workspace) error {
	return dayfly.Errorf(dayfly.Conflict, "workspace %s is %s%s: only a running one can be copied", ws.ID, ws.State, because(ws.Reason))
}

// newCopy is a workspace that is to go on where another was.
func newCopy(id dayfly.ID, of dayfly.Workspace, spec dayfly.Spec, parent string) dayfly.Workspace {
	return dayfly.Workspace{
		ID: id, Name: spec.Name, State: dayfly.Creating, Spec: spec, Image: of.Image, Parent: parent, CreatedAt: now(),
	}
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
func (n *Node) startCopy(ctx context.Context, clock clock, from *origin, ws dayfly.Workspace) (dayfly.Workspace, error) {
	w, err := n.add(ws)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return w.first(ctx, request{verb: verbStart, clock: clock, from: from})
}

// photograph takes a photo of a running workspace of this process.
func (n *Node) photograph(ctx context.Context, id dayfly.ID) (*photo, error) {
	w, err := n.find(ctx, id)
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
func (n *Node) fromSnapshot(ctx context.Context, c creation) (dayfly.Workspace, error) {
	spec := c.spec
	from, s, err := n.openSnapshot(ctx, spec.Snapshot)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	defer from.close()
	from.identity, from.cold = wire.IdentityNew, spec.Cold
	merged := s.Spec
	merged.Image, merged.Snapshot = "", spec.Snapshot
	merged.Name, merged.Cold, merged.Keep = spec.Name, spec.Cold, spec.Keep
	if spec.CPULimit > 0 {
		merged.CPULimit = spec.CPULimit
	}
	merged.Timeout, merged.OnTimeout = spec.Timeout, spec.OnTimeout
	// What rules a workspace is its own maker's to say.
	merged.Metadata, merged.Idle, merged.Restart, merged.RemoveOnExit = spec.Metadata, spec.Idle, spec.Restart, spec.RemoveOnExit
	merged.Command, merged.ImageCommand, merged.Ready = spec.Command, spec.ImageCommand, spec.Ready
	merged.User, merged.Workdir = orElse(spec.User, merged.User), orElse(spec.Workdir, merged.Workdir)
	env := map[string]string{}
	for _, m := range []map[string]string{s.Spec.Env, spec.Env} {
		for k, v := range m {
			env[k] = v
		}
	}
	merged.Env = env
	ws := newCopy(c.id, dayfly.Workspace{Image: s.Image}, merged, string(s.ID))
	if err := c.admitted(ws); err != nil {
		return dayfly.Workspace{}, err
	}
	return n.startCopy(ctx, c.clock, from, ws)
}

func (n *Node) snapshotDir(id dayfly.ID) string { return filepath.Join(n.Dir, "snapshots", string(id)) }
