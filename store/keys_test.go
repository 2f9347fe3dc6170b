package store

import (
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

func TestKeyComesBackWithItsDigest(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		at := exact(time.Now())
		end := at.Add(time.Hour)
		k := KeyRecord{Key: dayfly.Key{ID: "a", Name: "ci", CreatedAt: at, ExpiresAt: &end}, Digest: []byte{0, 1, 255}}
		no(t, s.CreateKey(t.Context(), k, Once{}))
		want(t, s.CreateKey(t.Context(), k, Once{}), dayfly.Conflict)
		want(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "b", Namespace: "nowhere"}}, Once{}), dayfly.NotFound)
		got, err := s.Key(t.Context(), "a")
		no(t, err)
		equal(t, got, k)
		_, err = s.Key(t.Context(), "b")
		want(t, err, dayfly.NotFound)
	})
}

func TestKeyIsRevokedOnceAndForAll(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		at := exact(time.Now())
		admin := func() bool {
			has, err := s.HasAdminKey(t.Context())
			no(t, err)
			return has
		}
		past := at.Add(-time.Hour)
		no(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "bound", Namespace: "default", CreatedAt: at}}, Once{}))
		no(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "expired", CreatedAt: at, ExpiresAt: &past}}, Once{}))
		if admin() {
			t.Error("there is an admin key before one was made")
		}
		no(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "admin", CreatedAt: at.Add(time.Second)}}, Once{}))
		if !admin() {
			t.Error("there is no admin key")
		}
		no(t, s.RevokeKey(t.Context(), "admin", at))
		no(t, s.RevokeKey(t.Context(), "admin", at.Add(time.Hour)))
		want(t, s.RevokeKey(t.Context(), "x", at), dayfly.NotFound)
		if admin() {
			t.Error("a revoked key counts as admin's")
		}
		keys, err := s.Keys(t.Context(), "")
		no(t, err)
		if len(keys) != 3 || keys[0].ID != "admin" || !keys[0].RevokedAt.Equal(at) {
			t.Errorf("keys: %+v", keys)
		}
		keys, err = s.Keys(t.Context(), "default")
		no(t, err)
		if len(keys) != 1 || keys[0].ID != "bound" {
			t.Errorf("keys of default: %+v", keys)
		}
	})
}

func TestUseOfAKeyNeverGoesBack(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		at := exact(time.Now())
		no(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "a"}}, Once{}))
		no(t, s.TouchKeys(t.Context(), nil))
		no(t, s.TouchKeys(t.Context(), map[string]time.Time{"a": at, "gone": at}))
		no(t, s.TouchKeys(t.Context(), map[string]time.Time{"a": at.Add(-time.Minute)}))
		k, err := s.Key(t.Context(), "a")
		no(t, err)
		equal(t, k.UsedAt, &at)
	})
}

func TestNamespacesAreListedByName(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for _, name := range []string{"zeta", "b-2", "b1", "alpha"} {
			namespace(t, s, name, dayfly.Limits{Running: 3})
		}
		want(t, s.CreateNamespace(t.Context(), dayfly.Namespace{Name: "b1"}, Once{}), dayfly.Conflict)
		want(t, s.CreateNamespace(t.Context(), dayfly.Namespace{Name: "B"}, Once{}), dayfly.Invalid)
		want(t, s.UpdateNamespace(t.Context(), dayfly.Namespace{Name: "nowhere"}), dayfly.NotFound)
		want(t, s.DeleteNamespace(t.Context(), dayfly.DefaultNamespace), dayfly.Invalid)
		_, err := s.Quota(t.Context(), "nowhere")
		want(t, err, dayfly.NotFound)
		all, err := s.Namespaces(t.Context())
		no(t, err)
		var names []string
		for _, n := range all {
			names = append(names, n.Name)
		}
		equal(t, names, []string{"alpha", "b-2", "b1", "default", "zeta"})

		before, err := s.Namespace(t.Context(), "zeta")
		no(t, err)
		changed := dayfly.Namespace{Name: "zeta", Metadata: map[string]string{"a": "b"}}
		no(t, s.UpdateNamespace(t.Context(), changed))
		changed.CreatedAt = before.CreatedAt
		got, err := s.Namespace(t.Context(), "zeta")
		no(t, err)
		equal(t, got, changed)
	})
}

func TestSnapshotsBelongToTheirNamespace(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "other", dayfly.Limits{})
		make1 := func(ns, name string) SnapshotRecord {
			r := SnapshotRecord{Namespace: ns, Snapshot: dayfly.Snapshot{ID: dayfly.NewID(), Name: name, CreatedAt: exact(time.Now())}}
			no(t, s.CreateSnapshot(t.Context(), r, Once{}, dayfly.Event{Type: dayfly.SnapshotCreated, Namespace: ns}))
			return r
		}
		a, b, c := make1("default", "base"), make1("other", "base"), make1("default", "")
		make1("default", "")
		want(t, s.CreateSnapshot(t.Context(), SnapshotRecord{Namespace: "default", Snapshot: dayfly.Snapshot{ID: dayfly.NewID(), Name: "base"}}, Once{}), dayfly.Conflict)
		want(t, s.CreateSnapshot(t.Context(), a, Once{}), dayfly.Conflict)
		for _, row := range []struct {
			namespace, ref string
			found          dayfly.ID
			kind           dayfly.Kind
		}{
			{"default", "base", a.ID, ""},
			{"other", "base", b.ID, ""},
			{"", "base", "", dayfly.Conflict},
			{"", string(c.ID), c.ID, ""},
			{"other", string(c.ID), "", dayfly.NotFound},
			{"default", "", "", dayfly.NotFound},
		} {
			got, err := s.Snapshot(t.Context(), row.namespace, row.ref)
			if got.ID != row.found || dayfly.KindOf(err) != row.kind {
				t.Errorf("Snapshot(%q, %q) = %q, %v", row.namespace, row.ref, got.ID, err)
			}
		}
		want(t, s.DeleteNamespace(t.Context(), "other"), dayfly.Conflict)
		no(t, s.DeleteSnapshot(t.Context(), b.ID, dayfly.Event{Type: dayfly.SnapshotDeleted, Namespace: "other"}))
		want(t, s.DeleteSnapshot(t.Context(), b.ID), dayfly.NotFound)
		no(t, s.DeleteNamespace(t.Context(), "other"))
		list, err := s.Snapshots(t.Context(), "")
		no(t, err)
		equal(t, len(list), 3)
		seq, err := s.LastEvent(t.Context())
		no(t, err)
		equal(t, seq, int64(5))
	})
}

func TestAuditLogIsReadBackwards(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for i := range 5 {
			no(t, s.AddAudit(t.Context(),
				dayfly.AuditEntry{At: time.Now(), Namespace: "default", Action: "PUT", Status: 200 + i},
				dayfly.AuditEntry{At: time.Now(), Namespace: "other", Action: "PUT"}))
		}
		no(t, s.AddAudit(t.Context()))
		page, err := s.Audit(t.Context(), dayfly.AuditQuery{Namespace: "default", Limit: 2})
		no(t, err)
		if len(page) != 2 || page[0].Status != 204 || page[1].Status != 203 {
			t.Fatalf("newest of the audit log: %+v", page)
		}
		page, err = s.Audit(t.Context(), dayfly.AuditQuery{Before: page[1].Seq})
		no(t, err)
		equal(t, len(page), 6)
	})
}
