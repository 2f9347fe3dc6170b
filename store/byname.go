package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
)

// A list by name goes on, from its first page to its last, by the names that
// workspaces had when it began: a cursor knows how many renames there had been.
// Without that, one that is renamed between two pages would be listed twice, or
// not at all. As long as nobody renames, which is nearly always, the list is one
// walk along an index.

// listed is a record with the name that it is sorted by.
type listed struct {
	Record
	as string
}

// renames is how many there have been.
func (q session) renames(ctx context.Context) (n int64, err error) {
	return n, q.one(ctx, []any{&n}, `SELECT value FROM counters WHERE name = 'renames'`)
}

// byName returns up to n records behind a place, and the rename as of which they
// are sorted.
func (q session) byName(ctx context.Context, query dayfly.Query, behind *cursor, n int) ([]listed, int64, error) {
	var since int64
	var err error
	if behind != nil {
		since = behind.Renames
	} else if since, err = q.renames(ctx); err != nil {
		return nil, 0, err
	}
	found, err := q.along(ctx, query, behind, n)
	if err != nil {
		return nil, 0, err
	}
	now, err := q.renames(ctx)
	if err == nil && now != since { // there may have been one before, or between the statements
		found, err = q.asOf(ctx, query, behind, since, n)
	}
	return found, since, err
}

// asOf is along by the names of an earlier moment.
func (q session) asOf(ctx context.Context, query dayfly.Query, behind *cursor, since int64, n int) ([]listed, error) {
	var w where
	kept := conditionsOf(query, &w)
	kept.and("id NOT IN (SELECT id FROM former_names WHERE until > ?)", since)
	w.args = kept.args
	renamed := conditionsOf(query, &w)
	renamed.and("id IN (SELECT id FROM former_names WHERE until > ?)", since)
	w.args = renamed.args
	first := w.hold(since)
	if behind != nil {
		place := fmt.Sprintf("(%s, %s)", w.hold(behind.Name), w.hold(behind.ID))
		kept.conditions = append(kept.conditions, "(name, id) > "+place)
		w.conditions = append(w.conditions, "(listed, id) > "+place)
	}
	statement := fmt.Sprintf(`
		SELECT * FROM (SELECT %[1]s, name AS listed, id FROM workspaces%[2]s ORDER BY name, id LIMIT %[6]d) AS kept
		UNION ALL
		SELECT * FROM (SELECT %[1]s, (
				SELECT f.name FROM former_names f WHERE f.id = workspaces.id AND f.until > %[4]s ORDER BY f.until LIMIT 1
			) AS listed, id FROM workspaces%[3]s) AS renamed%[5]s
		ORDER BY listed, id LIMIT %[6]d`, recordColumns, &kept, &renamed, first, &w, n)
	return all(ctx, q, scanListed, statement, w.args...)
}

func scanListed(rows *sql.Rows) (l listed, err error) {
	var id string
	l.Record, err = scanRecordAnd(rows, &l.as, &id)
	return l, err
}

// rename remembers what a workspace was called.
func (q session) rename(ctx context.Context, before Record, at time.Time) error {
	until, err := q.take(ctx, "renames", 1)
	if err != nil {
		return err
	}
	_, err = q.exec(ctx, `INSERT INTO former_names (id, until, name, at) VALUES ($1, $2, $3, $4)`,
		string(before.ID), until, before.Name, micros(at))
	return err
}
