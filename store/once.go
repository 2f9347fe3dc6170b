package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly/dayfly"
)

// onceLife is how long an idempotency key is remembered.
const onceLife = 24 * time.Hour

// maxOnceKey bounds an idempotency key, in bytes.
const maxOnceKey = 255

// Once tells requests that are repeated from new ones. The zero value: every
// request is new.
type Once struct {
	Namespace string // of who asks
	Key       string // the caller's; unique in its namespace for a day
	Request   string // digest of what was asked: the same key with another is Conflict
}

func (o Once) check() error {
	if len(o.Key) > maxOnceKey {
		return dayfly.Errorf(dayfly.Invalid, "the idempotency key has %d bytes: use at most %d", len(o.Key), maxOnceKey)
	}
	return nil
}

// Made returns the ids of what a request with the same key has made within a
// day, whatever has become of it since. False: there was none.
func (s *Store) Made(ctx context.Context, once Once) ([]string, bool, error) {
	var ids []string
	var before bool
	err := s.view(ctx, "look for an earlier request", func(q session) (err error) {
		ids, before, err = q.madeBefore(ctx, once, s.now())
		return err
	})
	return ids, before, err
}

// Acknowledge makes records durable together, as their maker is about to be told
// of them, and remembers the request that made them. One that is gone stays so.
func (s *Store) Acknowledge(ctx context.Context, once Once, list ...dayfly.ID) error {
	ids := make([]string, len(list))
	for i, id := range list {
		ids[i] = string(id)
	}
	return s.change(ctx, "acknowledge", func(ctx context.Context, q session) error {
		return q.once(ctx, once, ids, s.now(), func() error {
			for _, id := range ids {
				if _, err := q.exec(ctx, `UPDATE workspaces SET durable = 1, revision = revision + 1 WHERE id = $1`, id); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// once has make done, which makes ids, and remembers the request. It is
// Unavailable for a moment if another server has done the same request since its
// caller looked: who asks again then finds what was made.
func (q session) once(ctx context.Context, once Once, ids []string, now time.Time, makes func() error) error {
	if once.Key == "" {
		return makes()
	}
	if err := once.check(); err != nil {
		return err
	}
	if _, err := q.lockNamespace(ctx, once.Namespace); err != nil {
		return err
	}
	_, before, err := q.madeBefore(ctx, once, now)
	if err != nil {
		return err
	}
	if before {
		e := dayfly.Errorf(dayfly.Unavailable, "another server has just done the request with this idempotency key: ask again for what it made")
		e.RetryAfter = time.Second
		return e
	}
	if err := makes(); err != nil {
		return err
	}
	return q.remember(ctx, once, ids, now)
}

// madeBefore returns the ids of what a request with the same key has made.
func (q session) madeBefore(ctx context.Context, once Once, now time.Time) ([]string, bool, error) {
	if once.Key == "" {
		return nil, false, nil
	}
	var digest, list string
	err := q.one(ctx, []any{&digest, &list},
		`SELECT digest, made FROM requests WHERE namespace = $1 AND key = $2 AND created_at > $3`,
		once.Namespace, once.Key, micros(now.Add(-onceLife)))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case digest != once.Request:
		return nil, false, dayfly.Errorf(dayfly.Conflict, "the idempotency key was used before for another request: choose a new one")
	}
	var ids []string
	err = json.Unmarshal([]byte(list), &ids)
	return ids, err == nil, err
}

func (q session) remember(ctx context.Context, once Once, ids []string, now time.Time) error {
	if once.Key == "" {
		return nil
	}
	list, err := document(ids)
	if err != nil {
		return err
	}
	// What is there with this key is older than its life.
	_, err = q.exec(ctx, `INSERT INTO requests (namespace, key, digest, made, created_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (namespace, key) DO UPDATE SET digest = excluded.digest, made = excluded.made, created_at = excluded.created_at`,
		once.Namespace, once.Key, once.Request, list, micros(now))
	return err
}

// Forget makes an idempotency key new again, whose work was taken back. One
// that is not known is forgotten already.
func (s *Store) Forget(ctx context.Context, namespace, key string) error {
	return s.change(ctx, "forget an idempotency key", func(ctx context.Context, q session) error {
		_, err := q.exec(ctx, `DELETE FROM requests WHERE namespace = $1 AND key = $2`, namespace, key)
		return err
	})
}
