package api

import (
	"net/http"

	"github.com/dayfly/dayfly"
)

var errNoNamespaces = lacking("namespaces")

// ListNamespaces answers GET /v1/namespaces.
func (s routes) ListNamespaces(w http.ResponseWriter, r *http.Request) {
	s.withNamespaces(w, r, func(n Namespaces) error {
		list, err := n.Namespaces(r.Context())
		if err == nil {
			s.reply(w, r, http.StatusOK, NamespaceList{Namespaces: orEmpty(list)})
		}
		return err
	})
}

// CreateNamespace answers POST /v1/namespaces.
func (s routes) CreateNamespace(w http.ResponseWriter, r *http.Request, p CreateNamespaceParams) {
	s.withNamespaces(w, r, func(n Namespaces) error {
		ns, err := readNamespace(w, r, "")
		if err != nil {
			return err
		}
		exchangeOf(r).target = ns.Name
		ctx, err := once(r, p.IdempotencyKey)
		if err != nil {
			return err
		}
		ns, err = n.CreateNamespace(ctx, ns)
		if err == nil {
			s.reply(w, r, http.StatusCreated, ns)
		}
		return err
	})
}

// GetNamespace answers GET /v1/namespaces/{namespace}.
func (s routes) GetNamespace(w http.ResponseWriter, r *http.Request, name NamespaceName) {
	s.withNamespaces(w, r, func(n Namespaces) error {
		ns, err := n.Namespace(r.Context(), name)
		if err == nil {
			s.reply(w, r, http.StatusOK, ns)
		}
		return err
	})
}

// UpdateNamespace answers PUT /v1/namespaces/{namespace}.
func (s routes) UpdateNamespace(w http.ResponseWriter, r *http.Request, name NamespaceName) {
	s.withNamespaces(w, r, func(n Namespaces) error {
		exchangeOf(r).target = clip(name)
		ns, err := readNamespace(w, r, name)
		if err != nil {
			return err
		}
		ns, err = n.UpdateNamespace(r.Context(), ns)
		if err == nil {
			s.reply(w, r, http.StatusOK, ns)
		}
		return err
	})
}

// readNamespace reads a namespace, whose name is that of the path where there is one.
func readNamespace(w http.ResponseWriter, r *http.Request, name string) (dayfly.Namespace, error) {
	var body SetNamespace
	var none dayfly.Namespace
	if err := readJSON(w, r, &body); err != nil {
		return none, err
	}
	if name == "" {
		name = body.Name
	}
	if body.Name != "" && body.Name != name {
		return none, dayfly.Errorf(dayfly.Invalid, "name is %q and the path says %q: a namespace cannot be renamed", body.Name, name)
	}
	if err := dayfly.CheckNamespace(name); err != nil {
		return none, err
	}
	l := body.Limits
	for _, v := range []int{
		l.Workspaces, l.Running, l.CPUs, l.MemoryMiB, l.DiskMiB, l.WorkspaceCPUs, l.WorkspaceMemoryMiB, l.WorkspaceDiskMiB,
	} {
		if v < 0 {
			return none, dayfly.Errorf(dayfly.Invalid, "a limit is %d: use 0 for none or a positive number", v)
		}
	}
	return dayfly.Namespace{Name: name, Suspended: body.Suspended, Limits: l, Metadata: body.Metadata}, nil
}

// DeleteNamespace answers DELETE /v1/namespaces/{namespace}.
func (s routes) DeleteNamespace(w http.ResponseWriter, r *http.Request, name NamespaceName) {
	s.withNamespaces(w, r, func(n Namespaces) error {
		exchangeOf(r).target = clip(name)
		err := n.DeleteNamespace(r.Context(), name)
		if err == nil {
			noContent(w)
		}
		return err
	})
}

// GetQuota answers GET /v1/quota.
func (s routes) GetQuota(w http.ResponseWriter, r *http.Request, p GetQuotaParams) {
	s.withNamespaces(w, r, func(n Namespaces) error {
		name, err := within(r.Context(), p.Namespace)
		if err != nil {
			return err
		}
		if name == "" {
			name = dayfly.DefaultNamespace
		}
		quota, err := n.Quota(r.Context(), name)
		if err == nil {
			s.reply(w, r, http.StatusOK, quota)
		}
		return err
	})
}

func (s *Server) withNamespaces(w http.ResponseWriter, r *http.Request, do func(Namespaces) error) {
	s.try(w, r, s.o.Namespaces != nil, errNoNamespaces, func() error { return do(s.o.Namespaces) })
}

// ListAudit answers GET /v1/audit.
func (s routes) ListAudit(w http.ResponseWriter, r *http.Request, p ListAuditParams) {
	s.try(w, r, s.o.Audit != nil, lacking("an audit log"), func() error {
		q := dayfly.AuditQuery{Before: p.Before}
		var err error
		if q.Namespace, err = within(r.Context(), p.Namespace); err != nil {
			return err
		}
		if q.Limit, err = limitOf(p.Limit); err != nil {
			return err
		}
		if p.Before < 0 {
			return dayfly.Errorf(dayfly.Invalid, "before is %d: use the seq of an entry", p.Before)
		}
		list, err := s.o.Audit.Audit(r.Context(), q)
		if err == nil {
			s.reply(w, r, http.StatusOK, AuditList{Entries: orEmpty(list)})
		}
		return err
	})
}
