package control

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Get returns a workspace as it is now, also while the store is away.
func (c *Control) Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	k, err := c.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return k.current(), nil
}

// List returns a page of those the caller may see.
func (c *Control) List(ctx context.Context, q dayfly.Query) (dayfly.Page, error) {
	if err := c.open(); err != nil {
		return dayfly.Page{}, err
	}
	if err := noToken(ctx); err != nil {
		return dayfly.Page{}, err
	}
	q.Namespace = within(ctx, q.Namespace)
	page, err := c.db.List(ctx, q)
	if err != nil {
		return dayfly.Page{}, c.counted(err)
	}
	list := dayfly.Page{Workspaces: make([]dayfly.Workspace, 0, len(page.Records)), Next: page.Next}
	for _, r := range page.Records {
		if !c.deleted(r.ID) {
			list.Workspaces = append(list.Workspaces, r.Workspace)
		}
	}
	return list, nil
}

// deleted reports whether nothing is left of a workspace but its record, whose
// end may still wait for the store.
func (c *Control) deleted(id dayfly.ID) bool {
	k := c.keeperOf(id)
	return k != nil && k.view.Load().State == dayfly.Deleted
}

// within is the namespace that a question is about: the caller's, if it has one.
func within(ctx context.Context, asked string) string {
	if ns := dayfly.CallerOf(ctx).Namespace; ns != "" {
		return ns
	}
	return asked
}

// Resolve finds a workspace by id, name, or the unique beginning of an id.
func (c *Control) Resolve(ctx context.Context, ref string) (dayfly.ID, error) {
	if err := c.open(); err != nil {
		return "", err
	}
	if id, err := dayfly.ParseID(ref); err == nil {
		_, err := c.find(ctx, id)
		return id, err
	}
	caller := dayfly.CallerOf(ctx)
	r, err := c.db.Find(ctx, caller.Namespace, ref)
	if err == nil && !caller.Sees(r.Workspace) {
		err = notFound(dayfly.ID(ref))
	}
	return r.ID, c.counted(err)
}

// Update changes a workspace's name, metadata, rules and resources.
func (c *Control) Update(ctx context.Context, id dayfly.ID, u dayfly.Update) (dayfly.Workspace, error) {
	k, err := c.manage(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	actor := dayfly.CallerOf(ctx).Key
	ws, err := k.ask(func(reply func(error)) { k.update(u, actor, reply) })
	if err != nil || !u.Apply || ws.State != dayfly.Running {
		return ws, err
	}
	return c.Restart(ctx, id)
}

// update checks what the spec would become, asks the store, and then tells the
// node what it can know before the next start.
func (k *keeper) update(u dayfly.Update, actor string, reply func(error)) {
	if k.deletion != nil {
		reply(k.free("update"))
		return
	}
	if _, err := updated(k.rec.Spec, u); err != nil {
		reply(err)
		return
	}
	k.propose(proposal{
		events: []dayfly.Event{k.event(dayfly.WorkspaceUpdated, actor)},
		change: func(r *store.Record) {
			r.Spec, _ = updated(r.Spec, u) // as checked
			r.Name = r.Spec.Name
			if u.Timeout != nil && r.State == dayfly.Running {
				r.ExpiresAt = deadline(k.c.now(), r.Spec.Timeout)
			}
		},
		done: func(err error) {
			if err == nil && (u.Name != nil || u.Keep != nil) {
				k.tell()
			}
			reply(err)
		},
	})
}

// updated is a spec with the fields of an update.
func updated(s dayfly.Spec, u dayfly.Update) (dayfly.Spec, error) {
	if u.DiskMiB != nil && *u.DiskMiB < s.DiskMiB {
		return s, dayfly.Errorf(dayfly.Invalid, "disk_mib is %d: a disk can only grow, and this one has %d", *u.DiskMiB, s.DiskMiB)
	}
	s, err := u.Of(s).Normal()
	if err != nil {
		return s, err
	}
	return s, checkRules(s)
}

// tell has the node know the name and whether the disk is to be kept, as soon as
// it can; a start tells it as well.
func (k *keeper) tell() {
	name, keep := k.rec.Spec.Name, k.rec.Spec.Keep
	if !k.c.ops.begin() {
		return
	}
	k.c.tasks.Go(func() {
		defer k.c.ops.end()
		ws, err := k.c.ask(k.id)
		if err == nil {
			ws.Spec.Name, ws.Spec.Keep = name, keep
			_, err = k.c.node.Update(k.c.ended, k.id, ws.Spec)
		}
		if err != nil {
			k.c.log.Warn("update of a workspace at the host", "workspace", k.id, "err", err)
		}
	})
}
