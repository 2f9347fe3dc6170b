package store

import (
	"context"
	"database/sql"
	"errors"
	"maps"

	"github.com/dayfly/dayfly"
)

// Update writes a record over the stored one and returns it with its new
// revision. State Deleted removes it, and with it its name and its share of the
// quota. NotFound: it is gone. Conflict: it has changed since Record.Revision,
// or its new name is taken.
//
// CPUs, memory or disk that grow are subject to the limits also without Reserve.
// Id, namespace and CreatedAt never change.
func (s *Store) Update(ctx context.Context, c Change) (Record, error) {
	if err := checkMetadata(c.Record.Spec.Metadata); err != nil {
		return Record{}, err
	}
	var now Record
	err := s.change(ctx, "update", func(ctx context.Context, q session) error {
		before, err := q.lockRecord(ctx, c.Record.ID)
		if err != nil {
			return err
		}
		if now, err = c.after(before); err != nil {
			return err
		}
		if now.State == dayfly.Deleted {
			err = q.remove(ctx, now.ID)
		} else {
			err = q.replace(ctx, c, now, before)
		}
		if err == nil && now.State != dayfly.Deleted && now.Name != before.Name {
			err = q.rename(ctx, before, s.now())
		}
		if err != nil {
			return err
		}
		return s.addEvents(ctx, q, c.Events)
	})
	if err != nil {
		return Record{}, err
	}
	return now, nil
}

// lockRecord returns a record, with the revision that it gets, which nobody
// else changes until the transaction ends.
func (q session) lockRecord(ctx context.Context, id dayfly.ID) (Record, error) {
	r, err := first(all(ctx, q, scanRecord,
		`UPDATE workspaces SET revision = revision + 1 WHERE id = $1 RETURNING `+recordColumns, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return r, dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", id)
	}
	return r, err
}

// after is what becomes of a record by c.
func (c Change) after(before Record) (Record, error) {
	now := c.Record.normal()
	if was := before.Revision - 1; now.Revision != 0 && now.Revision != was {
		return now, dayfly.Errorf(dayfly.Conflict, "workspace %s has been changed meanwhile: look at it, and try again", now.ID)
	}
	if now.Namespace != "" && now.Namespace != before.Namespace {
		return now, dayfly.Errorf(dayfly.Invalid, "workspace %s is in another namespace, which cannot be changed", now.ID)
	}
	now.Durable = now.Durable || before.Durable // what somebody was told stays said
	now.Revision, now.Namespace, now.CreatedAt = before.Revision, before.Namespace, before.CreatedAt
	return now, nil
}

func (q session) remove(ctx context.Context, id dayfly.ID) error {
	_, err := q.exec(ctx, `DELETE FROM workspaces WHERE id = $1`, string(id))
	return err
}

func (q session) replace(ctx context.Context, c Change, now, before Record) error {
	if c.Reserve || grows(before.Spec, now.Spec) {
		ns, err := q.lockNamespace(ctx, now.Namespace)
		if err != nil {
			return err
		}
		if err := q.admit(ctx, ns, []Record{now}, []Record{before}); err != nil {
			return err
		}
	}
	return q.save(ctx, now, !maps.Equal(before.Spec.Metadata, now.Spec.Metadata))
}

func grows(before, now dayfly.Spec) bool {
	return now.CPUs > before.CPUs || now.MemoryMiB > before.MemoryMiB || now.DiskMiB > before.DiskMiB
}
