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

// Create adds workspaces, if their namespace is there and has room for all of
// them. It returns them with their first revision.
//
// True: Once.Key was used before, within a day, with the same request; nothing
// was changed, and what is returned are those of the records made then that
// still exist. With another request the key is a Conflict, as are names that
// are taken and ids that are there.
func (s *Store) Create(ctx context.Context, c Creation) ([]Record, bool, error) {
	namespace, err := c.check()
	if err != nil {
		return nil, false, err
	}
	var made []Record
	var before bool
	err = s.change(ctx, "create", func(ctx context.Context, q session) error {
		made, before = nil, false
		ns, err := q.lockNamespace(ctx, namespace)
		if err != nil {
			return err
		}
		if made, before, err = q.madeBefore(ctx, namespace, c.Once, s.now()); before || err != nil {
			return err
		}
		if err := q.admit(ctx, ns, c.Records, nil); err != nil {
			return err
		}
		for _, r := range c.Records {
			r = r.normal()
			r.Revision = 1
			if err := q.insert(ctx, r); err != nil {
				return err
			}
			made = append(made, r)
		}
		if err := q.remember(ctx, namespace, c, s.now()); err != nil {
			return err
		}
		return s.addEvents(ctx, q, c.Events)
	})
	if err != nil {
		return nil, false, err
	}
	return made, before, nil
}

// check returns the namespace of all records.
func (c Creation) check() (string, error) {
	if len(c.Records) == 0 {
		return "", dayfly.Errorf(dayfly.Invalid, "create: there is nothing to create")
	}
	if len(c.Once.Key) > maxOnceKey {
		return "", dayfly.Errorf(dayfly.Invalid, "the idempotency key has %d bytes: use at most %d", len(c.Once.Key), maxOnceKey)
	}
	namespace := c.Records[0].Namespace
	for _, r := range c.Records {
		if r.Namespace != namespace || r.ID == "" || r.State == dayfly.Deleted {
			return "", dayfly.Errorf(dayfly.Invalid, "create: records need an id, a state before deleted, and one namespace for all")
		}
		if err := checkMetadata(r.Spec.Metadata); err != nil {
			return "", err
		}
	}
	return namespace, nil
}

// Metadata is indexed, and PostgreSQL's indexes hold no more than 2,700 bytes
// a row.
const (
	maxMetadataKey   = 256
	maxMetadataValue = 2048
)

func checkMetadata(m map[string]string) error {
	for k, v := range m {
		if k == "" || len(k) > maxMetadataKey || len(v) > maxMetadataValue {
			return dayfly.Errorf(dayfly.Invalid, "metadata %.40q: use keys of 1 to %d bytes and values of at most %d", k, maxMetadataKey, maxMetadataValue)
		}
	}
	return nil
}

// madeBefore returns what a request with the same key has made.
func (q session) madeBefore(ctx context.Context, namespace string, once Once, now time.Time) ([]Record, bool, error) {
	if once.Key == "" {
		return nil, false, nil
	}
	var digest, list string
	err := q.one(ctx, []any{&digest, &list},
		`SELECT digest, workspaces FROM requests WHERE namespace = $1 AND key = $2 AND created_at > $3`,
		namespace, once.Key, micros(now.Add(-onceLife)))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case digest != once.Request:
		return nil, false, dayfly.Errorf(dayfly.Conflict, "the idempotency key was used before for another request: choose a new one")
	}
	var ids []dayfly.ID
	if err := json.Unmarshal([]byte(list), &ids); err != nil {
		return nil, false, err
	}
	var found []Record
	for _, id := range ids {
		r, err := q.get(ctx, id)
		if err == nil {
			found = append(found, r)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return nil, false, err
		}
	}
	return found, true, nil
}

func (q session) remember(ctx context.Context, namespace string, c Creation, now time.Time) error {
	if c.Once.Key == "" {
		return nil
	}
	var ids []dayfly.ID
	for _, r := range c.Records {
		ids = append(ids, r.ID)
	}
	list, err := document(ids)
	if err != nil {
		return err
	}
	// What is there with this key is older than its life.
	_, err = q.exec(ctx, `INSERT INTO requests (namespace, key, digest, workspaces, created_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (namespace, key) DO UPDATE SET digest = excluded.digest, workspaces = excluded.workspaces, created_at = excluded.created_at`,
		namespace, c.Once.Key, c.Once.Request, list, micros(now))
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
