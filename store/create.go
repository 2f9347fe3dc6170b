package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/dayfly/dayfly"
)

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
	c.Once.Namespace = namespace
	var made []Record
	var before bool
	err = s.change(ctx, "create", func(ctx context.Context, q session) error {
		made, before = nil, false
		ns, err := q.lockNamespace(ctx, namespace)
		if err != nil {
			return err
		}
		var ids []string
		if ids, before, err = q.madeBefore(ctx, c.Once, s.now()); err != nil {
			return err
		}
		if before {
			made, err = q.still(ctx, ids)
			return err
		}
		if err := q.admit(ctx, ns, c.Records, nil); err != nil {
			return err
		}
		if made, err = q.insertAll(ctx, c.Records); err != nil {
			return err
		}
		if err := q.remember(ctx, c.Once, c.ids(), s.now()); err != nil {
			return err
		}
		return s.addEvents(ctx, q, c.Events)
	})
	if err != nil {
		return nil, false, err
	}
	return made, before, nil
}

func (q session) insertAll(ctx context.Context, records []Record) ([]Record, error) {
	var made []Record
	for _, r := range records {
		r = r.normal()
		r.Revision = 1
		if err := q.insert(ctx, r); err != nil {
			return nil, err
		}
		made = append(made, r)
	}
	return made, nil
}

func (c Creation) ids() []string {
	ids := make([]string, len(c.Records))
	for i, r := range c.Records {
		ids[i] = string(r.ID)
	}
	return ids
}

// still returns those records that are there.
func (q session) still(ctx context.Context, ids []string) ([]Record, error) {
	var found []Record
	for _, id := range ids {
		r, err := q.get(ctx, dayfly.ID(id))
		if err == nil {
			found = append(found, r)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return found, nil
}

// check returns the namespace of all records.
func (c Creation) check() (string, error) {
	if len(c.Records) == 0 {
		return "", dayfly.Errorf(dayfly.Invalid, "create: there is nothing to create")
	}
	if err := c.Once.check(); err != nil {
		return "", err
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
