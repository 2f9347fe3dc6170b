package fakehost

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
)

// CreateNamespace makes a namespace, whose limits bind nobody.
func (s server) CreateNamespace(ctx context.Context, n dayfly.Namespace) (dayfly.Namespace, error) {
	s.note(ctx)
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	if _, known := s.sv.namespaces[n.Name]; known {
		return n, dayfly.Errorf(dayfly.Conflict, "there is a namespace %s already", n.Name)
	}
	n.CreatedAt = time.Now().UTC()
	s.sv.namespaces[n.Name] = n
	return n, nil
}

// Namespace returns one namespace.
func (s server) Namespace(_ context.Context, name string) (dayfly.Namespace, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	n, known := s.sv.namespaces[name]
	if !known {
		return n, dayfly.Errorf(dayfly.NotFound, "there is no namespace %s", name)
	}
	return n, nil
}

// Namespaces returns all namespaces, by name.
func (s server) Namespaces(context.Context) ([]dayfly.Namespace, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.sv.namespaces), func(a, b dayfly.Namespace) int { return cmp.Compare(a.Name, b.Name) }), nil
}

// UpdateNamespace sets all of a namespace.
func (s server) UpdateNamespace(ctx context.Context, n dayfly.Namespace) (dayfly.Namespace, error) {
	was, err := s.Namespace(ctx, n.Name)
	if err != nil {
		return n, err
	}
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	n.CreatedAt = was.CreatedAt
	s.sv.namespaces[n.Name] = n
	return n, nil
}

// DeleteNamespace deletes an empty namespace.
func (h *Host) DeleteNamespace(ctx context.Context, name string) error {
	if _, err := h.Namespace(ctx, name); err != nil {
		return err
	}
	if q, _ := h.Quota(ctx, name); q.Used.Workspaces > 0 {
		return dayfly.Errorf(dayfly.Conflict, "namespace %s has %d workspaces: delete them first", name, q.Used.Workspaces)
	}
	h.sv.mu.Lock()
	defer h.sv.mu.Unlock()
	delete(h.sv.namespaces, name)
	return nil
}

// Quota counts what a namespace holds.
func (h *Host) Quota(ctx context.Context, name string) (dayfly.Quota, error) {
	n, err := h.Namespace(ctx, name)
	if err != nil {
		return dayfly.Quota{}, err
	}
	q := dayfly.Quota{Namespace: name, Limits: n.Limits}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.of {
		if w.Namespace == name {
			q.Used.Workspaces++
			q.Used.DiskMiB += w.Spec.DiskMiB
		}
	}
	return q, nil
}
