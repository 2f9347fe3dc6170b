package store

import (
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

// TestWhateverIsMadeIsMadeOncePerKey: all that takes a Once, at one place.
func TestWhateverIsMadeIsMadeOncePerKey(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		clock := time.Now()
		s.now = func() time.Time { return clock }
		namespace(t, s, "team", dayfly.Limits{})
		fork := create(t, s, fresh("team"), fresh("team"))
		sn := dayfly.Snapshot{ID: dayfly.NewID(), CreatedAt: clock}
		for name, what := range map[string]struct {
			id   string
			make func(Once) error
		}{
			"key": {"k1", func(o Once) error {
				return s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "k1", Namespace: "team"}}, o)
			}},
			"namespace": {"more", func(o Once) error { return s.CreateNamespace(t.Context(), dayfly.Namespace{Name: "more"}, o) }},
			"webhook":   {"h1", func(o Once) error { return s.CreateWebhook(t.Context(), dayfly.Webhook{ID: "h1"}, o) }},
			"snapshot": {string(sn.ID), func(o Once) error {
				return s.CreateSnapshot(t.Context(), SnapshotRecord{Namespace: "team", Snapshot: sn}, o)
			}},
			"fork": {string(fork[0].ID), func(o Once) error { return s.Acknowledge(t.Context(), o, fork[0].ID) }},
		} {
			once := Once{Namespace: "team", Key: name, Request: "a"}
			_, before, err := s.Made(t.Context(), once)
			no(t, err)
			equal(t, before, false)
			no(t, what.make(once))
			made, before, err := s.Made(t.Context(), once)
			no(t, err)
			equal(t, before, true)
			equal(t, made, []string{what.id})
			// Another server that looked a moment ago does it no second time.
			want(t, what.make(once), dayfly.Unavailable)
			once.Request = "b"
			want(t, what.make(once), dayfly.Conflict)
			_, _, err = s.Made(t.Context(), once)
			want(t, err, dayfly.Conflict)
			want(t, what.make(Once{Namespace: "nowhere", Key: name}), dayfly.NotFound)
		}
		clock = clock.Add(25 * time.Hour)
		_, before, err := s.Made(t.Context(), Once{Namespace: "team", Key: "key", Request: "b"})
		no(t, err)
		equal(t, before, false)
	})
}

// TestSnapshotIsUnderWayUntilItIsMadeOrGivenUp, per key.
func TestSnapshotIsUnderWayUntilItIsMadeOrGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		began := exact(time.Now())
		begin := func(key string) SnapshotUnderWay {
			u := SnapshotUnderWay{Once: Once{Namespace: "default", Key: key}, Workspace: dayfly.NewID(), Began: began}
			no(t, s.BeginSnapshot(t.Context(), u))
			return u
		}
		underWay := func(want ...SnapshotUnderWay) {
			t.Helper()
			got, err := s.SnapshotsUnderWay(t.Context())
			no(t, err)
			equal(t, got, want)
		}
		begin("a")
		a, b := begin("a"), begin("b") // the first again, after a kill
		underWay(a, b)
		no(t, s.EndSnapshot(t.Context(), b.Once))
		underWay(a)
		no(t, s.CreateSnapshot(t.Context(), SnapshotRecord{Namespace: "default", Snapshot: dayfly.Snapshot{ID: dayfly.NewID(), Workspace: a.Workspace}}, a.Once))
		underWay()
	})
}

// TestRequestThatMakesNothingIsNew: a key is remembered with what it made, or not
// at all.
func TestRequestThatMakesNothingIsNew(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		once := Once{Namespace: "default", Key: "k", Request: "a"}
		want(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "a", Namespace: "nowhere"}}, once), dayfly.NotFound)
		_, before, err := s.Made(t.Context(), once)
		no(t, err)
		equal(t, before, false)
	})
}

// TestAcknowledgedRecordStaysDurable, also where its owner writes what it knew
// before.
func TestAcknowledgedRecordStaysDurable(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		r := create(t, s, fresh("default"))[0]
		gone := dayfly.NewID()
		no(t, s.Acknowledge(t.Context(), Once{}, r.ID, gone))
		r.Revision = 0
		_, err := s.Update(t.Context(), Change{Record: r})
		no(t, err)
		got, err := s.Get(t.Context(), r.ID)
		no(t, err)
		equal(t, got.Durable, true)
		_, err = s.Get(t.Context(), gone)
		want(t, err, dayfly.NotFound)
	})
}
