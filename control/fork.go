package control

import (
	"context"
	"errors"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Fork makes count running copies of a running workspace, or none, in its
// namespace. They have its spec and rules but for the name. With Caller.Once a
// request that is repeated gets what the first one made.
func (c *Control) Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error) {
	parent, gone := c.manage(ctx, id)
	if gone != nil && !mayHaveMade(ctx, gone) {
		return nil, gone
	}
	if count < 1 || count > dayfly.MaxFork {
		return nil, dayfly.Errorf(dayfly.Invalid, "count is %d: fork 1 to %d", count, dayfly.MaxFork)
	}
	once, err := c.once(ctx, "fork", id, count)
	if err != nil {
		return nil, err
	}
	defer once.leave()
	if once.again {
		return c.forked(ctx, once)
	}
	if gone != nil {
		return nil, gone
	}
	return c.fork(ctx, parent, count, once.Once)
}

func (c *Control) fork(ctx context.Context, parent *keeper, count int, once store.Once) ([]dayfly.Workspace, error) {
	if ws := parent.view.Load(); ws.State != dayfly.Running {
		return nil, parent.refusal("fork", ws.State)
	}
	leave, err := c.gate.enter(ctx, false)
	if err != nil {
		return nil, err
	}
	defer leave()
	if !c.ops.begin() {
		return nil, c.open()
	}
	defer c.ops.end()
	f := &forking{c: c, parent: *parent.view.Load(), actor: dayfly.CallerOf(ctx).Key, once: once}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ended, func() { cancel(context.Canceled) })()
	f.cancel = cancel
	list, err := c.node.ForkAdmitted(ctx, parent.id, count, func(list []dayfly.Workspace) error { return f.admit(ctx, list) })
	return f.settle(ctx, list, err)
}

// forked answers a fork that was made before, with what is left of it.
func (c *Control) forked(ctx context.Context, once single) ([]dayfly.Workspace, error) {
	var list []dayfly.Workspace
	for _, id := range once.made {
		k, err := c.find(ctx, dayfly.ID(id))
		if dayfly.KindOf(err) == dayfly.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, k.current())
	}
	if len(list) == 0 {
		return nil, once.gone()
	}
	return list, nil
}

// forking is a fork under way.
type forking struct {
	c      *Control
	once   store.Once
	parent store.Record
	actor  string
	cancel context.CancelCauseFunc
	kids   []*keeper
	ops    []*operation
	ready  []chan error
}

// admit makes the records of all children, or none.
func (f *forking) admit(ctx context.Context, list []dayfly.Workspace) error {
	var creation store.Creation
	for _, ws := range list {
		ws.State, ws.Namespace, ws.CreatedAt, ws.Parent = dayfly.Creating, f.parent.Namespace, f.c.now(), string(f.parent.ID)
		ws.Spec, ws.Name = f.parent.Spec, ""
		ws.Spec.Name, ws.Spec.Cold = "", false
		ws.Exit = f.parent.Exit // its main command has ended, too
		rec := store.Record{Workspace: ws}
		k := f.c.keep(rec)
		op := &operation{verb: "creation", actor: f.actor, cancel: f.cancel, done: make(chan struct{})}
		k.op, k.maker = op, &maker{ready: true, together: true}
		result := make(chan error, 1)
		k.settling = append(k.settling, func(err error) { result <- err })
		f.kids, f.ops, f.ready = append(f.kids, k), append(f.ops, op), append(f.ready, result)
		creation.Records = append(creation.Records, rec)
		creation.Events = append(creation.Events, k.event(dayfly.WorkspaceCreated, f.actor))
	}
	_, _, err := f.c.create(ctx, creation)
	if err != nil {
		for _, op := range f.ops {
			close(op.done)
		}
		f.c.refuse(err, f.kids...)
		f.kids = nil
		return err
	}
	for _, k := range f.kids {
		k.begin()
	}
	f.c.bell.ring()
	return nil
}

// settle waits until every child is ready, or takes back all of them.
func (f *forking) settle(ctx context.Context, list []dayfly.Workspace, err error) ([]dayfly.Workspace, error) {
	made := map[dayfly.ID]dayfly.Workspace{}
	for _, ws := range list {
		made[ws.ID] = ws
	}
	for i, k := range f.kids {
		op := f.ops[i]
		close(op.done)
		k.mail.take()
		is, lost := f.c.ask(k.id)
		k.post(func() { k.made(op, made[k.id], err, is, lost) })
	}
	failed := errors.Join(err, f.await(ctx))
	if failed == nil {
		failed = f.acknowledge(ctx)
	}
	if failed != nil {
		for _, k := range f.kids {
			f.takeBack(k)
		}
		if err != nil {
			return nil, err
		}
		return nil, failed
	}
	children := make([]dayfly.Workspace, len(f.kids))
	for i, k := range f.kids {
		children[i] = k.current()
	}
	return children, nil
}

// await waits until every child is ready.
func (f *forking) await(ctx context.Context) (failed error) {
	if len(f.kids) == 0 {
		return nil
	}
	for _, result := range f.ready {
		select {
		case e := <-result:
			failed = errors.Join(failed, e)
		case <-ctx.Done():
			failed = errors.Join(failed, cutOff(ctx, "the fork"))
		}
	}
	return failed
}

// acknowledge makes all children durable at once: a server that is killed before
// leaves none to the next one, and the idempotency key is new.
func (f *forking) acknowledge(ctx context.Context) error {
	ids := make([]dayfly.ID, len(f.kids))
	for i, k := range f.kids {
		ids[i] = k.id
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := f.c.counted(f.c.db.Acknowledge(ctx, f.once, ids...)); err != nil {
		f.c.forgetKey(f.once.Namespace, f.once.Key) // it may have been done all the same
		return err
	}
	for _, k := range f.kids {
		k.post(func() { k.rec.Durable = true })
	}
	return nil
}

// takeBack deletes a child of a fork that failed elsewhere.
func (f *forking) takeBack(k *keeper) {
	_, err := k.ask(func(reply func(error)) { k.remove("", nil, reply) })
	if err != nil && dayfly.KindOf(err) != dayfly.NotFound {
		f.c.log.Error("deletion of a fork's child", "workspace", k.id, "err", err)
	}
}
