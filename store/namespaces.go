package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/dayfly/dayfly"
)

func scanNamespace(rows *sql.Rows) (dayfly.Namespace, error) {
	var n dayfly.Namespace
	var text []byte
	if err := rows.Scan(&text); err != nil {
		return n, err
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return n, fmt.Errorf("document of a namespace: %w", err)
	}
	return n, nil
}

// lockNamespace returns a namespace in which no other transaction creates or
// reserves until this one ends: all that needs room begins with this statement.
func (q session) lockNamespace(ctx context.Context, name string) (dayfly.Namespace, error) {
	n, err := first(all(ctx, q, scanNamespace,
		`UPDATE namespaces SET revision = revision + 1 WHERE name = $1 RETURNING document`, name))
	return n, noNamespace(name, err)
}

func (q session) namespace(ctx context.Context, name string) (dayfly.Namespace, error) {
	n, err := first(all(ctx, q, scanNamespace, `SELECT document FROM namespaces WHERE name = $1`, name))
	return n, noNamespace(name, err)
}

func noNamespace(name string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return dayfly.Errorf(dayfly.NotFound, "there is no namespace %q", name)
	}
	return err
}

// CreateNamespace adds a namespace; Conflict if it is there. What happened in an
// earlier one of the same name is not seen in it.
func (s *Store) CreateNamespace(ctx context.Context, n dayfly.Namespace, once Once) error {
	if err := dayfly.CheckNamespace(n.Name); err != nil {
		return err
	}
	n.CreatedAt = exact(n.CreatedAt)
	text, err := document(n)
	if err != nil {
		return err
	}
	return s.change(ctx, "create a namespace", func(ctx context.Context, q session) error {
		return q.once(ctx, once, []string{n.Name}, s.now(), func() error {
			made, err := q.exec(ctx, `INSERT INTO namespaces (name, revision, created_at, since, document)
				VALUES ($1, 1, $2, (SELECT value FROM counters WHERE name = 'events'), $3)
				ON CONFLICT (name) DO NOTHING`, n.Name, micros(n.CreatedAt), text)
			if err == nil && made == 0 {
				return dayfly.Errorf(dayfly.Conflict, "namespace %s is there already", n.Name)
			}
			return err
		})
	})
}

// Namespace returns one by its name.
func (s *Store) Namespace(ctx context.Context, name string) (dayfly.Namespace, error) {
	var n dayfly.Namespace
	err := s.view(ctx, "namespace", func(q session) (err error) {
		n, err = q.namespace(ctx, name)
		return err
	})
	return n, err
}

// Namespaces returns all, by name.
func (s *Store) Namespaces(ctx context.Context) ([]dayfly.Namespace, error) {
	var found []dayfly.Namespace
	err := s.view(ctx, "namespaces", func(q session) (err error) {
		found, err = all(ctx, q, scanNamespace, `SELECT document FROM namespaces ORDER BY name`)
		return err
	})
	return found, err
}

// UpdateNamespace replaces what a namespace is but for its name and CreatedAt.
// Limits below what is used take nothing away: they refuse what is to come.
func (s *Store) UpdateNamespace(ctx context.Context, n dayfly.Namespace) error {
	return s.change(ctx, "update a namespace", func(ctx context.Context, q session) error {
		before, err := q.lockNamespace(ctx, n.Name)
		if err != nil {
			return err
		}
		n.CreatedAt = before.CreatedAt
		text, err := document(n)
		if err != nil {
			return err
		}
		_, err = q.exec(ctx, `UPDATE namespaces SET document = $2 WHERE name = $1`, n.Name, text)
		return err
	})
}

// DeleteNamespace removes an empty namespace with its webhooks, and revokes its
// keys. Conflict: it has workspaces or snapshots. The namespace "default" stays.
func (s *Store) DeleteNamespace(ctx context.Context, name string) error {
	if name == dayfly.DefaultNamespace {
		return dayfly.Errorf(dayfly.Invalid, "namespace %s cannot be deleted: it is where workspaces go that name no other", name)
	}
	return s.change(ctx, "delete a namespace", func(ctx context.Context, q session) error {
		if _, err := q.lockNamespace(ctx, name); err != nil {
			return err
		}
		var workspaces, snapshots int
		err := q.one(ctx, []any{&workspaces, &snapshots},
			`SELECT (SELECT COUNT(*) FROM workspaces WHERE namespace = $1), (SELECT COUNT(*) FROM snapshots WHERE namespace = $1)`, name)
		if err != nil {
			return err
		}
		if workspaces+snapshots > 0 {
			return dayfly.Errorf(dayfly.Conflict, "namespace %s has %d workspaces and %d snapshots: delete them first", name, workspaces, snapshots)
		}
		if _, err := q.exec(ctx, `UPDATE keys SET revoked_at = $2 WHERE namespace = $1 AND revoked_at IS NULL`, name, micros(s.now())); err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM webhooks WHERE namespace = $1`,
			`DELETE FROM namespaces WHERE name = $1`,
		} {
			if _, err := q.exec(ctx, statement, name); err != nil {
				return err
			}
		}
		return nil
	})
}
