package client

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Keys makes and revokes API keys, and says who changed what. It is for admins.
type Keys struct{ c *Client }

// Create makes a key from k's Name, Namespace and ExpiresAt. The secret is what
// callers send; it is not shown again.
func (k *Keys) Create(ctx context.Context, key dayfly.Key, o ...Option) (made dayfly.Key, secret string, err error) {
	r, err := decode[rest.NewKey](k.c.rest.CreateKey(ctx, &rest.CreateKeyParams{}, rest.CreateKey{Name: key.Name, Namespace: key.Namespace, ExpiresAt: key.ExpiresAt}, with(o)))
	return r.Key, r.Secret, err
}

// List returns the keys, newest first.
func (k *Keys) List(ctx context.Context) ([]dayfly.Key, error) {
	l, err := decode[rest.KeyList](k.c.rest.ListKeys(ctx))
	return l.Keys, err
}

// Revoke ends a key, by its id, and every stream that it opened.
func (k *Keys) Revoke(ctx context.Context, id string) error {
	return done(k.c.rest.RevokeKey(ctx, id))
}

// Audit returns who changed what, newest first. The Seq of the last is the
// Before of the next page.
func (k *Keys) Audit(ctx context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	p := rest.ListAuditParams{Namespace: q.Namespace, Before: q.Before, Limit: positive(q.Limit)}
	l, err := decode[rest.AuditList](k.c.rest.ListAudit(ctx, &p))
	return l.Entries, err
}

// Namespaces manages namespaces. All but Quota is for admins.
type Namespaces struct{ c *Client }

// Create makes a namespace.
func (n *Namespaces) Create(ctx context.Context, ns dayfly.Namespace, o ...Option) (dayfly.Namespace, error) {
	return decode[dayfly.Namespace](n.c.rest.CreateNamespace(ctx, &rest.CreateNamespaceParams{}, settings(ns), with(o)))
}

func settings(ns dayfly.Namespace) rest.SetNamespace {
	return rest.SetNamespace{Name: ns.Name, Suspended: ns.Suspended, Limits: ns.Limits, Metadata: ns.Metadata}
}

// List returns the namespaces, by name.
func (n *Namespaces) List(ctx context.Context) ([]dayfly.Namespace, error) {
	l, err := decode[rest.NamespaceList](n.c.rest.ListNamespaces(ctx))
	return l.Namespaces, err
}

// Get returns one namespace.
func (n *Namespaces) Get(ctx context.Context, name string) (dayfly.Namespace, error) {
	return decode[dayfly.Namespace](n.c.rest.GetNamespace(ctx, name))
}

// Update sets all of a namespace but its name.
func (n *Namespaces) Update(ctx context.Context, ns dayfly.Namespace) (dayfly.Namespace, error) {
	return decode[dayfly.Namespace](n.c.rest.UpdateNamespace(ctx, ns.Name, settings(ns)))
}

// Delete deletes an empty namespace.
func (n *Namespaces) Delete(ctx context.Context, name string) error {
	return done(n.c.rest.DeleteNamespace(ctx, name))
}

// Quota returns what a namespace may hold and does; "" is the caller's own.
func (n *Namespaces) Quota(ctx context.Context, name string) (dayfly.Quota, error) {
	return decode[dayfly.Quota](n.c.rest.GetQuota(ctx, &rest.GetQuotaParams{Namespace: name}))
}
