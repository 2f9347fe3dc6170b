package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
)

func scanSnapshot(rows *sql.Rows) (SnapshotRecord, error) {
	var r SnapshotRecord
	var text []byte
	if err := rows.Scan(&r.Namespace, &text); err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r.Snapshot); err != nil {
		return r, fmt.Errorf("document of a snapshot: %w", err)
	}
	return r, nil
}

// CreateSnapshot adds a snapshot. Conflict: its name is taken in its namespace,
// or its id is there.
func (s *Store) CreateSnapshot(ctx context.Context, r SnapshotRecord, once Once, ev ...dayfly.Event) error {
	r.CreatedAt = exact(r.CreatedAt)
	return s.change(ctx, "create a snapshot", func(ctx context.Context, q session) error {
		err := q.once(ctx, once, []string{string(r.ID)}, s.now(), func() error { return q.insertSnapshot(ctx, r) })
		if err != nil {
			return err
		}
		if err := q.endSnapshot(ctx, once); err != nil {
			return err
		}
		return s.addEvents(ctx, q, ev)
	})
}

// SnapshotUnderWay is one that is being made, for a request that is done once.
type SnapshotUnderWay struct {
	Once
	Workspace dayfly.ID
	Began     time.Time
}

// BeginSnapshot notes that a snapshot is about to be made. CreateSnapshot, or
// EndSnapshot, with the same Once ends that.
func (s *Store) BeginSnapshot(ctx context.Context, u SnapshotUnderWay) error {
	return s.change(ctx, "begin a snapshot", func(ctx context.Context, q session) error {
		_, err := q.exec(ctx, `INSERT INTO snapshots_under_way (namespace, key, workspace, began_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (namespace, key) DO UPDATE SET workspace = excluded.workspace, began_at = excluded.began_at`,
			u.Namespace, u.Key, string(u.Workspace), micros(u.Began))
		return err
	})
}

// EndSnapshot forgets a snapshot that was under way.
func (s *Store) EndSnapshot(ctx context.Context, once Once) error {
	return s.change(ctx, "end a snapshot", func(ctx context.Context, q session) error { return q.endSnapshot(ctx, once) })
}

func (q session) endSnapshot(ctx context.Context, once Once) error {
	if once.Key == "" {
		return nil
	}
	_, err := q.exec(ctx, `DELETE FROM snapshots_under_way WHERE namespace = $1 AND key = $2`, once.Namespace, once.Key)
	return err
}

// SnapshotsUnderWay returns what was begun and has not ended.
func (s *Store) SnapshotsUnderWay(ctx context.Context) ([]SnapshotUnderWay, error) {
	var found []SnapshotUnderWay
	err := s.view(ctx, "snapshots under way", func(q session) (err error) {
		found, err = all(ctx, q, func(r *sql.Rows) (u SnapshotUnderWay, err error) {
			var began int64
			err = r.Scan(&u.Namespace, &u.Key, &u.Workspace, &began)
			u.Began = instant(began)
			return u, err
		}, `SELECT namespace, key, workspace, began_at FROM snapshots_under_way ORDER BY began_at, namespace, key`)
		return err
	})
	return found, err
}

func (q session) insertSnapshot(ctx context.Context, r SnapshotRecord) error {
	text, err := document(r.Snapshot)
	if err != nil {
		return err
	}
	ns, err := q.lockNamespace(ctx, r.Namespace)
	if err != nil {
		return err
	}
	if ns.Suspended {
		return dayfly.Errorf(dayfly.Denied, "namespace %s is suspended: nothing can be made or started in it", ns.Name)
	}
	_, err = q.exec(ctx, `INSERT INTO snapshots (id, namespace, name, created_at, document) VALUES ($1, $2, $3, $4, $5)`,
		string(r.ID), r.Namespace, r.Name, micros(r.CreatedAt), text)
	switch {
	case isDuplicateName(err):
		return dayfly.Errorf(dayfly.Conflict, "namespace %s has a snapshot named %q already: choose another name, or delete that one", r.Namespace, r.Name)
	case duplicate(err) != "":
		return dayfly.Errorf(dayfly.Conflict, "snapshot %s is there already", r.ID)
	}
	return err
}

// Snapshot returns the one that ref means, its id or name, in a namespace or, if
// that is empty, in all. Conflict: there are several of that name.
func (s *Store) Snapshot(ctx context.Context, namespace, ref string) (SnapshotRecord, error) {
	var found []SnapshotRecord
	err := s.view(ctx, "snapshot", func(q session) (err error) {
		found = nil
		for _, column := range []string{"id", "name"} {
			var w where
			w.and(column+" = ?", ref)
			if namespace != "" {
				w.and("namespace = ?", namespace)
			}
			found, err = all(ctx, q, scanSnapshot, `SELECT namespace, document FROM snapshots`+w.String()+` ORDER BY id LIMIT 2`, w.args...)
			if err != nil || len(found) > 0 {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return SnapshotRecord{}, err
	case len(found) == 0 || ref == "":
		return SnapshotRecord{}, noSnapshot(ref)
	case len(found) > 1:
		return SnapshotRecord{}, dayfly.Errorf(dayfly.Conflict, "several namespaces have a snapshot named %q: use its id, such as %s (%s) or %s (%s)",
			ref, found[0].ID, found[0].Namespace, found[1].ID, found[1].Namespace)
	}
	return found[0], nil
}

func noSnapshot(ref string) error {
	return dayfly.Errorf(dayfly.NotFound, "there is no snapshot %q", ref)
}

// Snapshots returns those of a namespace, or, if that is empty, all; the newest
// first.
func (s *Store) Snapshots(ctx context.Context, namespace string) ([]SnapshotRecord, error) {
	var w where
	if namespace != "" {
		w.and("namespace = ?", namespace)
	}
	var found []SnapshotRecord
	err := s.view(ctx, "snapshots", func(q session) (err error) {
		found, err = all(ctx, q, scanSnapshot, `SELECT namespace, document FROM snapshots`+w.String()+` ORDER BY created_at DESC, id DESC`, w.args...)
		return err
	})
	return found, err
}

// DeleteSnapshot removes a snapshot; NotFound if it is gone.
func (s *Store) DeleteSnapshot(ctx context.Context, id dayfly.ID, ev ...dayfly.Event) error {
	return s.change(ctx, "delete a snapshot", func(ctx context.Context, q session) error {
		n, err := q.exec(ctx, `DELETE FROM snapshots WHERE id = $1`, string(id))
		if err != nil {
			return err
		}
		if n == 0 {
			return noSnapshot(string(id))
		}
		return s.addEvents(ctx, q, ev)
	})
}
