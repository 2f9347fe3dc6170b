package store

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
)

// model is what a store promises, in the simplest form: a map and sums.
type model struct {
	s          *Store
	t          *testing.T
	prefix     string // of the namespaces of this run
	namespaces map[string]*dayfly.Namespace
	records    map[dayfly.ID]Record
	gone       []dayfly.ID
	requests   map[string][]dayfly.ID // by namespace and key
	born       time.Time
}

// TestStoreDoesAsTheModel does random things to a store and to the model, and
// wants the same answers.
func TestStoreDoesAsTheModel(t *testing.T) {
	t.Parallel()
	for engine, runs := range map[string]int{sqlite: 1000, postgres: 15} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := open(t, newURL(t, engine))
			run := 0
			rapid.Check(t, func(rt *rapid.T) {
				if run++; run > runs {
					return
				}
				m := newModel(t, s, fmt.Sprintf("run%d-", run))
				rt.Repeat(map[string]func(*rapid.T){
					"create": m.create, "update": m.update, "find": m.find, "list": m.list, "namespace": m.limit, "": m.check,
				})
			})
		})
	}
}

func newModel(t *testing.T, s *Store, prefix string) *model {
	m := &model{
		s: s, t: t, prefix: prefix, born: exact(time.Now()),
		namespaces: map[string]*dayfly.Namespace{}, records: map[dayfly.ID]Record{}, requests: map[string][]dayfly.ID{},
	}
	for _, name := range []string{prefix + "a", prefix + "b"} {
		namespace(t, s, name, dayfly.Limits{})
		m.namespaces[name] = &dayfly.Namespace{Name: name}
	}
	return m
}

func (m *model) someNamespace(rt *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"a", "a", "a", "b", "nowhere"}).Draw(rt, "namespace")
}

func (m *model) someState(rt *rapid.T, states ...dayfly.State) dayfly.State {
	return rapid.SampledFrom(states).Draw(rt, "state")
}

func (m *model) draw(rt *rapid.T, namespace string) Record {
	return fresh(namespace, func(r *Record) {
		r.Name = rapid.SampledFrom([]string{"", "", "x", "y", "Z", "ä"}).Draw(rt, "name")
		r.State = m.someState(rt, dayfly.Creating, dayfly.Running, dayfly.Stopped)
		r.Spec.CPUs = rapid.IntRange(1, 4).Draw(rt, "cpus")
		r.Spec.DiskMiB = rapid.IntRange(1, 4).Draw(rt, "disk")
		r.Spec.Metadata = map[string]string{"k": rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "metadata")}
		r.CreatedAt = m.born.Add(time.Duration(rapid.IntRange(0, 3).Draw(rt, "age")) * time.Microsecond)
		*r = r.normal()
	})
}

func (m *model) create(rt *rapid.T) {
	ns := m.someNamespace(rt)
	c := Creation{Records: []Record{m.draw(rt, ns)}}
	if rapid.Bool().Draw(rt, "two") {
		c.Records = append(c.Records, m.draw(rt, ns))
	}
	c.Once.Key = rapid.SampledFrom([]string{"", "", "k1", "k2"}).Draw(rt, "key")
	got, before, err := m.s.Create(m.t.Context(), c)

	if known, ok := m.requests[ns+c.Once.Key]; ok && c.Once.Key != "" {
		known = slices.DeleteFunc(slices.Clone(known), func(id dayfly.ID) bool { return m.records[id].ID == "" })
		if err != nil || !before || !slices.Equal(ids(got), known) {
			rt.Fatalf("a repeated create gives %v, %v, %v, want %v", ids(got), before, err, known)
		}
		return
	}
	kind := m.admits(ns, c.Records, nil)
	taken := map[string]bool{}
	for _, r := range c.Records {
		if kind == "" && r.Name != "" && (taken[r.Name] || m.isTaken(ns, r.Name, r.ID)) {
			kind = dayfly.Conflict
		}
		taken[r.Name] = true
	}
	if dayfly.KindOf(err) != kind || before {
		rt.Fatalf("create: %v, want %q", err, kind)
	}
	for _, r := range got {
		m.records[r.ID] = r
	}
	if kind == "" && c.Once.Key != "" {
		m.requests[ns+c.Once.Key] = ids(got)
	}
}

func (m *model) isTaken(ns, name string, by dayfly.ID) bool {
	for _, r := range m.records {
		if r.Namespace == ns && r.Name == name && r.ID != by {
			return true
		}
	}
	return false
}

// admits is the kind of error that wanted in the place of before gives.
func (m *model) admits(name string, wanted, before []Record) dayfly.Kind {
	ns := m.namespaces[name]
	if ns == nil {
		return dayfly.NotFound
	}
	if ns.Suspended {
		return dayfly.Denied
	}
	var used, more dayfly.Amounts
	for _, r := range m.records {
		if r.Namespace == name {
			used = plus(used, r.amounts(), 1)
		}
	}
	for _, r := range wanted {
		if l := ns.Limits.WorkspaceCPUs; l > 0 && r.Spec.CPUs > l {
			return dayfly.Exhausted
		}
		more = plus(more, r.amounts(), 1)
	}
	for _, r := range before {
		more = plus(more, r.amounts(), -1)
	}
	for _, l := range [][3]int{
		{ns.Limits.Workspaces, used.Workspaces, more.Workspaces},
		{ns.Limits.Running, used.Running, more.Running},
		{ns.Limits.CPUs, used.CPUs, more.CPUs},
		{ns.Limits.DiskMiB, used.DiskMiB, more.DiskMiB},
	} {
		if l[0] > 0 && l[2] > 0 && l[1]+l[2] > l[0] {
			return dayfly.Exhausted
		}
	}
	return ""
}

func plus(a, b dayfly.Amounts, sign int) dayfly.Amounts {
	return dayfly.Amounts{
		Workspaces: a.Workspaces + sign*b.Workspaces, Running: a.Running + sign*b.Running, CPUs: a.CPUs + sign*b.CPUs,
		MemoryMiB: a.MemoryMiB + sign*b.MemoryMiB, DiskMiB: a.DiskMiB + sign*b.DiskMiB,
	}
}

// some returns a record that is there, or one that is not.
func (m *model) some(rt *rapid.T) Record {
	all := slices.SortedFunc(maps.Values(m.records), func(a, b Record) int { return strings.Compare(string(a.ID), string(b.ID)) })
	i := rapid.IntRange(0, 20).Draw(rt, "which")
	switch {
	case i < len(all):
		return all[i]
	case len(m.gone) > 0:
		return fresh(m.prefix+"a", func(r *Record) { r.ID = m.gone[len(m.gone)-1] })
	}
	return fresh(m.prefix + "a")
}

func (m *model) update(rt *rapid.T) {
	before := m.some(rt)
	now := m.draw(rt, before.Namespace)
	now.ID = before.ID
	now.State = m.someState(rt, dayfly.Creating, dayfly.Running, dayfly.Paused, dayfly.Stopped, dayfly.Failed, dayfly.Deleted)
	now.Revision = before.Revision * int64(rapid.IntRange(0, 1).Draw(rt, "revision"))
	stale := rapid.IntRange(0, 9).Draw(rt, "stale") == 0
	if stale {
		now.Revision = before.Revision + 5
	}
	c := Change{Record: now, Reserve: rapid.Bool().Draw(rt, "reserve")}
	got, err := m.s.Update(m.t.Context(), c)

	var kind dayfly.Kind
	_, there := m.records[now.ID]
	switch {
	case !there:
		kind = dayfly.NotFound
	case stale:
		kind = dayfly.Conflict
	case now.State != dayfly.Deleted:
		if c.Reserve || grows(before.Spec, now.Spec) {
			kind = m.admits(now.Namespace, []Record{now}, []Record{before})
		}
		if kind == "" && now.Name != "" && m.isTaken(now.Namespace, now.Name, now.ID) {
			kind = dayfly.Conflict
		}
	}
	if dayfly.KindOf(err) != kind {
		rt.Fatalf("update: %v, want %q", err, kind)
	}
	if kind != "" {
		return
	}
	now.CreatedAt, now.Revision = before.CreatedAt, before.Revision+1
	equal(m.t, got, now)
	if now.State == dayfly.Deleted {
		delete(m.records, now.ID)
		m.gone = append(m.gone, now.ID)
	} else {
		m.records[now.ID] = now
	}
}

func (m *model) find(rt *rapid.T) {
	ns := m.someNamespace(rt)
	r := m.some(rt)
	ref := rapid.SampledFrom([]string{r.Name, string(r.ID), string(r.ID[:8]), string(r.ID[:3]), "x", ""}).Draw(rt, "ref")
	got, err := m.s.Find(m.t.Context(), ns, ref)
	var found dayfly.ID
	for _, r := range m.records {
		isIt := string(r.ID) == ref || r.Name == ref || len(ref) >= minPrefix && strings.HasPrefix(string(r.ID), ref)
		if ref != "" && r.Namespace == ns && isIt {
			found = r.ID
		}
	}
	if got.ID != found || (err == nil) != (found != "") {
		rt.Fatalf("Find(%q, %q) = %q, %v, want %q", ns, ref, got.ID, err, found)
	}
}

func (m *model) list(rt *rapid.T) {
	q := dayfly.Query{
		Namespace: m.someNamespace(rt),
		Order:     rapid.SampledFrom([]dayfly.Order{"", dayfly.NewestFirst, dayfly.OldestFirst, dayfly.ByName}).Draw(rt, "order"),
		Limit:     rapid.IntRange(1, 5).Draw(rt, "limit"),
		Name:      rapid.SampledFrom([]string{"", "", "x"}).Draw(rt, "filter name"),
	}
	if rapid.Bool().Draw(rt, "by state") {
		q.States = []dayfly.State{m.someState(rt, dayfly.Running, dayfly.Stopped)}
	}
	if rapid.Bool().Draw(rt, "by metadata") {
		q.Metadata = map[string]string{"k": "1"}
	}
	var expected []Record
	for _, r := range m.records {
		if r.Namespace == q.Namespace && (q.Name == "" || q.Name == r.Name) &&
			(q.States == nil || slices.Contains(q.States, r.State)) && (q.Metadata == nil || r.Spec.Metadata["k"] == "1") {
			expected = append(expected, r)
		}
	}
	slices.SortFunc(expected, func(a, b Record) int {
		byAge := cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		switch q.Order {
		case dayfly.ByName:
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
		case dayfly.OldestFirst:
			return byAge
		}
		return -byAge
	})
	equal(m.t, walk(m.t, m.s, q, nil), expected)
}

func (m *model) limit(rt *rapid.T) {
	ns := m.namespaces[m.prefix+rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "namespace")]
	some := rapid.SampledFrom([]int{0, 0, 1, 3, 6})
	ns.Limits = dayfly.Limits{
		Workspaces: some.Draw(rt, "workspaces"), Running: some.Draw(rt, "running"), CPUs: some.Draw(rt, "cpus"),
		DiskMiB: some.Draw(rt, "disk"), WorkspaceCPUs: some.Draw(rt, "each"),
	}
	ns.Suspended = rapid.IntRange(0, 5).Draw(rt, "suspended") == 0
	no(m.t, m.s.UpdateNamespace(m.t.Context(), *ns))
}

// check compares what each namespace is said to hold.
func (m *model) check(rt *rapid.T) {
	for name, ns := range m.namespaces {
		quota, err := m.s.Quota(m.t.Context(), name)
		no(m.t, err)
		var used dayfly.Amounts
		for _, r := range m.records {
			if r.Namespace == name {
				used = plus(used, r.amounts(), 1)
			}
		}
		if want := (dayfly.Quota{Namespace: name, Limits: ns.Limits, Used: used}); quota != want {
			rt.Fatalf("quota of %s is %+v, want %+v", name, quota, want)
		}
	}
}
