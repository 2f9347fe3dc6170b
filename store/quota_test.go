package store

import (
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestEachLimitRefusesWhatIsBeyondIt(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for name, row := range map[string]struct {
			limits dayfly.Limits
			says   string
		}{
			"a": {dayfly.Limits{Workspaces: 2}, "namespace a: workspaces 2/2: "},
			"b": {dayfly.Limits{Running: 2}, "namespace b: running 2/2: stop or delete a workspace, or ask for a higher limit"},
			"c": {dayfly.Limits{CPUs: 5}, "namespace c: cpus 4/5, 2 more wanted: "},
			"d": {dayfly.Limits{MemoryMiB: 2047}, "namespace d: memory_mib 1024/2047, 1024 more wanted: "},
			"e": {dayfly.Limits{DiskMiB: 3000}, "namespace e: disk_mib 2048/3000, 1024 more wanted: "},
			"f": {dayfly.Limits{WorkspaceCPUs: 2}, "namespace f: workspace_cpus 4/2: "},
			"g": {dayfly.Limits{WorkspaceMemoryMiB: 512}, "namespace g: workspace_memory_mib 1024/512: "},
			"h": {dayfly.Limits{WorkspaceDiskMiB: 1024}, "namespace h: workspace_disk_mib 9999/1024: "},
		} {
			namespace(t, s, name, row.limits)
			create(t, s, fresh(name, func(r *Record) { r.Spec.CPUs = 2 }), fresh(name, func(r *Record) { r.Spec.CPUs = 2 }))
			over := fresh(name, func(r *Record) {
				r.Spec.CPUs, r.Spec.MemoryMiB = 2, 1024
				switch name {
				case "f":
					r.Spec.CPUs = 4
				case "h":
					r.Spec.DiskMiB = 9999
				}
			})
			_, _, err := s.Create(t.Context(), Creation{Records: []Record{over}})
			want(t, err, dayfly.Exhausted)
			if !strings.HasPrefix(err.Error(), row.says) {
				t.Errorf("%s: %q, want %q", name, err, row.says)
			}
		}
	})
}

func TestStoppedWorkspaceCountsByItsDiskAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "team", dayfly.Limits{Running: 1, CPUs: 1, MemoryMiB: 512})
		r := create(t, s, fresh("team"))[0]
		for _, state := range []dayfly.State{dayfly.Paused, dayfly.Stopped, dayfly.Failed} {
			r.State, r.Revision = state, 0
			_, err := s.Update(t.Context(), Change{Record: r})
			no(t, err)
			quota, err := s.Quota(t.Context(), "team")
			no(t, err)
			equal(t, quota.Used, dayfly.Amounts{Workspaces: 1, DiskMiB: 1024})
		}
		create(t, s, fresh("team", inState(dayfly.Creating)))
		r.State = dayfly.Creating
		_, err := s.Update(t.Context(), Change{Record: r, Reserve: true})
		want(t, err, dayfly.Exhausted)
		got, err := s.Get(t.Context(), r.ID)
		no(t, err)
		equal(t, got.State, dayfly.Failed)
	})
}

func TestGrowthIsSubjectToTheLimits(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "team", dayfly.Limits{DiskMiB: 2000, WorkspaceMemoryMiB: 1024})
		r := create(t, s, fresh("team", inState(dayfly.Stopped)))[0]
		r.Revision = 0
		r.Spec.DiskMiB = 2000
		_, err := s.Update(t.Context(), Change{Record: r})
		no(t, err)
		r.Spec.DiskMiB = 2001
		_, err = s.Update(t.Context(), Change{Record: r})
		want(t, err, dayfly.Exhausted)
		r.Spec.DiskMiB, r.Spec.MemoryMiB = 2000, 2048
		_, err = s.Update(t.Context(), Change{Record: r})
		want(t, err, dayfly.Exhausted)
	})
}

func TestLoweredLimitTakesNothingAway(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "team", dayfly.Limits{})
		made := create(t, s, fresh("team"), fresh("team", inState(dayfly.Stopped)))
		ns, err := s.Namespace(t.Context(), "team")
		no(t, err)
		ns.Limits = dayfly.Limits{DiskMiB: 1, Running: 2}
		no(t, s.UpdateNamespace(t.Context(), ns))
		made[1].State = dayfly.Creating
		_, err = s.Update(t.Context(), Change{Record: made[1], Reserve: true}) // wants no more disk
		no(t, err)
		_, _, err = s.Create(t.Context(), Creation{Records: []Record{fresh("team", inState(dayfly.Stopped))}})
		want(t, err, dayfly.Exhausted)
	})
}

func TestSuspendedNamespaceStartsNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		_, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("nowhere")}})
		want(t, err, dayfly.NotFound)
		namespace(t, s, "team", dayfly.Limits{})
		c := Creation{Records: []Record{fresh("team", inState(dayfly.Stopped))}, Once: Once{Key: "k"}}
		made, _, err := s.Create(t.Context(), c)
		no(t, err)
		no(t, s.UpdateNamespace(t.Context(), dayfly.Namespace{Name: "team", Suspended: true}))
		_, _, err = s.Create(t.Context(), Creation{Records: []Record{fresh("team")}})
		want(t, err, dayfly.Denied)
		_, err = s.Update(t.Context(), Change{Record: made[0], Reserve: true})
		want(t, err, dayfly.Denied)
		want(t, s.CreateSnapshot(t.Context(), SnapshotRecord{Namespace: "team", Snapshot: dayfly.Snapshot{ID: dayfly.NewID()}}, Once{}), dayfly.Denied)
		_, before, err := s.Create(t.Context(), c)
		no(t, err)
		if !before {
			t.Error("a repeated request was not known")
		}
		_, err = s.Update(t.Context(), Change{Record: made[0]}) // what is, is recorded
		no(t, err)
	})
}

// TestRacingCreatesNeverExceedALimit is what transactions are for here.
func TestRacingCreatesNeverExceedALimit(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "team", dayfly.Limits{Running: 10})
		equal(t, race(50, func(int) error {
			_, _, err := s.Create(t.Context(), Creation{
				Records: []Record{fresh("team")},
				Events:  []dayfly.Event{{Type: dayfly.WorkspaceCreated, Namespace: "team"}},
			})
			return err
		}), map[dayfly.Kind]int{"": 10, dayfly.Exhausted: 40})
		seq, err := s.LastEvent(t.Context())
		no(t, err)
		equal(t, seq, int64(10))
	})
}

func TestRacingStartsNeverExceedALimit(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "team", dayfly.Limits{CPUs: 10})
		var stopped []Record
		for range 30 {
			stopped = append(stopped, create(t, s, fresh("team", inState(dayfly.Stopped)))...)
		}
		equal(t, race(30, func(i int) error {
			r := stopped[i]
			r.State = dayfly.Creating
			_, err := s.Update(t.Context(), Change{Record: r, Reserve: true})
			return err
		}), map[dayfly.Kind]int{"": 10, dayfly.Exhausted: 20})
		quota, err := s.Quota(t.Context(), "team")
		no(t, err)
		equal(t, quota.Used, dayfly.Amounts{Workspaces: 30, Running: 10, CPUs: 10, MemoryMiB: 5120, DiskMiB: 30 * 1024})
	})
}

func TestRacingRequestsWithOneKeyMakeOneWorkspace(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		equal(t, race(20, func(int) error {
			_, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default")}, Once: Once{Key: "k", Request: "r"}})
			return err
		}), map[dayfly.Kind]int{"": 20})
		counts, err := s.Counts(t.Context())
		no(t, err)
		equal(t, counts, map[dayfly.State]int{dayfly.Running: 1})
	})
}

// race does f so often at once and counts what came of it.
func race(n int, f func(i int) error) map[dayfly.Kind]int {
	var mu sync.Mutex
	kinds := map[dayfly.Kind]int{}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			kind := dayfly.KindOf(f(i))
			mu.Lock()
			defer mu.Unlock()
			kinds[kind]++
		})
	}
	all.Wait()
	return kinds
}
