package control

import (
	"context"
	"errors"

	"github.com/dayfly/dayfly"
)

// CreateNamespace makes a namespace, for admins. With Caller.Once a request that
// is repeated gets what the first one made.
func (c *Control) CreateNamespace(ctx context.Context, n dayfly.Namespace) (dayfly.Namespace, error) {
	if err := c.checkNamespace(ctx, n); err != nil {
		return dayfly.Namespace{}, err
	}
	once, err := c.once(ctx, "namespace", n.Name, n.Suspended, n.Limits, n.Metadata)
	if err != nil {
		return dayfly.Namespace{}, err
	}
	defer once.leave()
	if once.again {
		is, err := c.db.Namespace(ctx, once.made[0])
		return is, c.counted(once.orGone(err))
	}
	n.CreatedAt = c.now()
	return n, c.counted(c.db.CreateNamespace(ctx, n, once.Once))
}

func (c *Control) checkNamespace(ctx context.Context, n dayfly.Namespace) error {
	if err := errors.Join(c.open(), adminOnly(ctx, "namespaces")); err != nil {
		return err
	}
	if err := dayfly.CheckNamespace(n.Name); err != nil {
		return err
	}
	l := n.Limits
	for _, v := range []int{l.Workspaces, l.Running, l.CPUs, l.MemoryMiB, l.DiskMiB, l.WorkspaceCPUs, l.WorkspaceMemoryMiB, l.WorkspaceDiskMiB} {
		if v < 0 {
			return dayfly.Errorf(dayfly.Invalid, "a limit is %d: use 0 for none or a positive number", v)
		}
	}
	return checkMetadata(n.Metadata)
}

// Namespace returns one: any for an admin, its own for everybody else.
func (c *Control) Namespace(ctx context.Context, name string) (dayfly.Namespace, error) {
	if err := c.mayAsk(ctx, name); err != nil {
		return dayfly.Namespace{}, err
	}
	n, err := c.db.Namespace(ctx, name)
	return n, c.counted(err)
}

// mayAsk hides the namespaces of others.
func (c *Control) mayAsk(ctx context.Context, name string) error {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return err
	}
	if caller := dayfly.CallerOf(ctx); caller.Bound && caller.Namespace != name {
		return dayfly.Errorf(dayfly.NotFound, "there is no namespace %s", name)
	}
	return nil
}

// Namespaces returns all, by name, for admins.
func (c *Control) Namespaces(ctx context.Context) ([]dayfly.Namespace, error) {
	if err := errors.Join(c.open(), adminOnly(ctx, "namespaces")); err != nil {
		return nil, err
	}
	list, err := c.db.Namespaces(ctx)
	return list, c.counted(err)
}

// UpdateNamespace sets Suspended, Limits and Metadata. Limits below what is used
// end nothing; they refuse more.
func (c *Control) UpdateNamespace(ctx context.Context, n dayfly.Namespace) (dayfly.Namespace, error) {
	if err := c.checkNamespace(ctx, n); err != nil {
		return dayfly.Namespace{}, err
	}
	is, err := c.db.Namespace(ctx, n.Name)
	if err != nil {
		return dayfly.Namespace{}, c.counted(err)
	}
	n.CreatedAt = is.CreatedAt
	return n, c.counted(c.db.UpdateNamespace(ctx, n))
}

// DeleteNamespace removes an empty namespace. Its keys are revoked, also in what
// is under way.
func (c *Control) DeleteNamespace(ctx context.Context, name string) error {
	if err := errors.Join(c.open(), adminOnly(ctx, "namespaces")); err != nil {
		return err
	}
	if err := c.counted(c.db.DeleteNamespace(ctx, name)); err != nil {
		return err
	}
	c.life.endNamespace(name)
	return nil
}

// endNamespace ends the keys bound to a namespace.
func (l *lives) endNamespace(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, k := range l.keys {
		if k.rec.Namespace == name {
			k.end()
			delete(l.keys, id)
		}
	}
}

// Quota returns what a namespace may hold and does; its own, for who is bound to
// one.
func (c *Control) Quota(ctx context.Context, name string) (dayfly.Quota, error) {
	if err := c.mayAsk(ctx, name); err != nil {
		return dayfly.Quota{}, err
	}
	q, err := c.db.Quota(ctx, name)
	return q, c.counted(err)
}
