package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
)

const keyColumns = `id, name, namespace, created_at, expires_at, revoked_at, used_at, digest`

func scanKey(rows *sql.Rows) (KeyRecord, error) {
	var k KeyRecord
	var created int64
	var expires, revoked, used sql.NullInt64
	var digest string
	err := rows.Scan(&k.ID, &k.Name, &k.Namespace, &created, &expires, &revoked, &used, &digest)
	if err != nil {
		return k, err
	}
	k.CreatedAt = instant(created)
	k.ExpiresAt, k.RevokedAt, k.UsedAt = instantPtr(expires), instantPtr(revoked), instantPtr(used)
	if k.Digest, err = hex.DecodeString(digest); err != nil {
		return k, fmt.Errorf("digest of a key: %w", err)
	}
	return k, nil
}

// CreateKey adds a key. NotFound: the namespace it is bound to is not there.
func (s *Store) CreateKey(ctx context.Context, k KeyRecord, once Once) error {
	return s.change(ctx, "create a key", func(ctx context.Context, q session) error {
		return q.once(ctx, once, []string{k.ID}, s.now(), func() error { return q.insertKey(ctx, k) })
	})
}

func (q session) insertKey(ctx context.Context, k KeyRecord) error {
	if k.Namespace != "" {
		if _, err := q.lockNamespace(ctx, k.Namespace); err != nil {
			return err
		}
	}
	_, err := q.exec(ctx, `INSERT INTO keys (`+keyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		k.ID, k.Name, k.Namespace, micros(k.CreatedAt), microsPtr(k.ExpiresAt), microsPtr(k.RevokedAt), microsPtr(k.UsedAt),
		hex.EncodeToString(k.Digest))
	if duplicate(err) != "" {
		return dayfly.Errorf(dayfly.Conflict, "key %s is there already", k.ID)
	}
	return err
}

// Key returns a key by its id, also a revoked or expired one.
func (s *Store) Key(ctx context.Context, id string) (KeyRecord, error) {
	var k KeyRecord
	err := s.view(ctx, "key", func(q session) (err error) {
		k, err = first(all(ctx, q, scanKey, `SELECT `+keyColumns+` FROM keys WHERE id = $1`, id))
		return noKey(id, err)
	})
	return k, err
}

func noKey(id string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return dayfly.Errorf(dayfly.NotFound, "there is no key %q", id)
	}
	return err
}

// Keys returns the keys of a namespace, or, if that is empty, all; the newest
// first.
func (s *Store) Keys(ctx context.Context, namespace string) ([]dayfly.Key, error) {
	var w where
	if namespace != "" {
		w.and("namespace = ?", namespace)
	}
	var keys []dayfly.Key
	err := s.view(ctx, "keys", func(q session) error {
		found, err := all(ctx, q, scanKey, `SELECT `+keyColumns+` FROM keys`+w.String()+` ORDER BY created_at DESC, id DESC`, w.args...)
		keys = nil
		for _, k := range found {
			keys = append(keys, k.Key)
		}
		return err
	})
	return keys, err
}

// RevokeKey makes a key open nothing any more. A revoked one stays revoked since
// the first time.
func (s *Store) RevokeKey(ctx context.Context, id string, at time.Time) error {
	return s.change(ctx, "revoke a key", func(ctx context.Context, q session) error {
		n, err := q.exec(ctx, `UPDATE keys SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1`, id, micros(at))
		if err == nil && n == 0 {
			err = sql.ErrNoRows
		}
		return noKey(id, err)
	})
}

// TouchKeys records when keys were last used, by id. Keys that are not there are
// left out; an older use than the recorded one changes nothing.
func (s *Store) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	return s.change(ctx, "record the use of keys", func(ctx context.Context, q session) error {
		for _, id := range slices.Sorted(maps.Keys(used)) { // in one order, so that no two wait for each other
			at := micros(used[id])
			if _, err := q.exec(ctx, `UPDATE keys SET used_at = $2 WHERE id = $1 AND (used_at IS NULL OR used_at < $2)`, id, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// HasAdminKey reports whether any key opens everything now.
func (s *Store) HasAdminKey(ctx context.Context) (bool, error) {
	var n int
	err := s.view(ctx, "look for an admin key", func(q session) error {
		return q.one(ctx, []any{&n}, `SELECT COUNT(*) FROM keys
			WHERE namespace = '' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)`, micros(s.now()))
	})
	return n > 0, err
}
