package store

import (
	"context"
	"fmt"

	"github.com/dayfly/dayfly"
)

// bound is one limit of a namespace and what counts towards it.
type bound struct {
	name   string // as in JSON
	limit  func(dayfly.Limits) int
	amount func(dayfly.Amounts) int
	remedy string
}

var bounds = []bound{
	{
		"workspaces", func(l dayfly.Limits) int { return l.Workspaces }, func(a dayfly.Amounts) int { return a.Workspaces },
		"delete a workspace, or ask for a higher limit",
	},
	{
		"running", func(l dayfly.Limits) int { return l.Running }, func(a dayfly.Amounts) int { return a.Running },
		"stop or delete a workspace, or ask for a higher limit",
	},
	{
		"cpus", func(l dayfly.Limits) int { return l.CPUs }, func(a dayfly.Amounts) int { return a.CPUs },
		"stop or delete a workspace, ask for fewer, or for a higher limit",
	},
	{
		"memory_mib", func(l dayfly.Limits) int { return l.MemoryMiB }, func(a dayfly.Amounts) int { return a.MemoryMiB },
		"stop or delete a workspace, ask for less, or for a higher limit",
	},
	{
		"disk_mib", func(l dayfly.Limits) int { return l.DiskMiB }, func(a dayfly.Amounts) int { return a.DiskMiB },
		"delete a workspace, ask for less, or for a higher limit",
	},
}

// sizes are the limits of each workspace.
var sizes = []struct {
	name  string
	limit func(dayfly.Limits) int
	size  func(dayfly.Spec) int
}{
	{"workspace_cpus", func(l dayfly.Limits) int { return l.WorkspaceCPUs }, func(s dayfly.Spec) int { return s.CPUs }},
	{"workspace_memory_mib", func(l dayfly.Limits) int { return l.WorkspaceMemoryMiB }, func(s dayfly.Spec) int { return s.MemoryMiB }},
	{"workspace_disk_mib", func(l dayfly.Limits) int { return l.WorkspaceDiskMiB }, func(s dayfly.Spec) int { return s.DiskMiB }},
}

// admit returns nil if a locked namespace has room for wanted in the place of
// the records before, which are stored. A limit that has been lowered below what
// is used refuses only what would use more of it.
func (q session) admit(ctx context.Context, ns dayfly.Namespace, wanted, before []Record) error {
	if ns.Suspended {
		return dayfly.Errorf(dayfly.Denied, "namespace %s is suspended: nothing can be made or started in it", ns.Name)
	}
	if ns.Limits == (dayfly.Limits{}) {
		return nil
	}
	for _, r := range wanted {
		if err := checkSizes(ns, r.Spec); err != nil {
			return err
		}
	}
	used, err := q.used(ctx, ns.Name)
	if err != nil {
		return err
	}
	for _, b := range bounds {
		limit, has, more := b.limit(ns.Limits), b.amount(used), 0
		for _, r := range wanted {
			more += b.amount(r.amounts())
		}
		for _, r := range before {
			more -= b.amount(r.amounts())
		}
		if limit > 0 && more > 0 && has+more > limit {
			return dayfly.Errorf(dayfly.Exhausted, "namespace %s: %s %d/%d%s: %s", ns.Name, b.name, has, limit, moreWanted(more), b.remedy)
		}
	}
	return nil
}

func moreWanted(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(", %d more wanted", n)
}

func checkSizes(ns dayfly.Namespace, spec dayfly.Spec) error {
	for _, l := range sizes {
		if limit, size := l.limit(ns.Limits), l.size(spec); limit > 0 && size > limit {
			return dayfly.Errorf(dayfly.Exhausted, "namespace %s: %s %d/%d: ask for less, or for a higher limit", ns.Name, l.name, size, limit)
		}
	}
	return nil
}

// used sums what a namespace holds. Only while its row is locked does it stay so.
func (q session) used(ctx context.Context, namespace string) (dayfly.Amounts, error) {
	var a dayfly.Amounts
	err := q.one(ctx, []any{&a.Workspaces, &a.Running, &a.CPUs, &a.MemoryMiB, &a.DiskMiB},
		`SELECT COUNT(*),
			CAST(COALESCE(SUM(running), 0) AS BIGINT),
			CAST(COALESCE(SUM(running * cpus), 0) AS BIGINT),
			CAST(COALESCE(SUM(running * memory_mib), 0) AS BIGINT),
			CAST(COALESCE(SUM(disk_mib), 0) AS BIGINT)
		FROM workspaces WHERE namespace = $1`, namespace)
	return a, err
}

// Quota returns what a namespace may hold and does.
func (s *Store) Quota(ctx context.Context, name string) (dayfly.Quota, error) {
	var quota dayfly.Quota
	err := s.view(ctx, "quota", func(q session) error {
		ns, err := q.namespace(ctx, name)
		if err != nil {
			return err
		}
		used, err := q.used(ctx, name)
		quota = dayfly.Quota{Namespace: name, Limits: ns.Limits, Used: used}
		return err
	})
	return quota, err
}
