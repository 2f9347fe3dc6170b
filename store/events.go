package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/dayfly/dayfly"
)

// take returns the first of n new numbers of a counter. Whoever has taken some
// commits before the next one is given any: numbers grow in the order in which
// they can be seen. So it is the last that a transaction does.
func (q session) take(ctx context.Context, counter string, n int) (int64, error) {
	var last int64
	err := q.one(ctx, []any{&last}, `UPDATE counters SET value = value + $2 WHERE name = $1 RETURNING value`, counter, n)
	return last - int64(n) + 1, err
}

// addEvents writes events about what the transaction has done before.
func (s *Store) addEvents(ctx context.Context, q session, events []dayfly.Event) error {
	if len(events) == 0 {
		return nil
	}
	seq, err := q.take(ctx, "events", len(events))
	if err != nil {
		return err
	}
	for i, e := range events {
		e.Seq = seq + int64(i)
		if e.ID == "" {
			e.ID = "evt_" + rand.Text()
		}
		if e.At.IsZero() {
			e.At = s.now()
		}
		e.At = exact(e.At)
		if e.Exit != nil {
			exit := *e.Exit
			exit.At = exact(exit.At)
			e.Exit = &exit
		}
		text, err := document(e)
		if err != nil {
			return err
		}
		if _, err := q.exec(ctx, `INSERT INTO events (seq, namespace, workspace, type, at, document) VALUES ($1, $2, $3, $4, $5, $6)`,
			e.Seq, e.Namespace, string(e.Workspace), string(e.Type), micros(e.At), text); err != nil {
			return err
		}
	}
	return nil
}

func scanEvent(rows *sql.Rows) (dayfly.Event, error) {
	var e dayfly.Event
	var text []byte
	if err := rows.Scan(&text); err != nil {
		return e, err
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("document of an event: %w", err)
	}
	return e, nil
}

// maxTypes bounds how many types a query may name: each of them a few times.
const maxTypes = 50

// Events returns events in the order of Seq. Whoever has seen one has seen all
// below it. Those of a namespace begin with its making.
func (s *Store) Events(ctx context.Context, query dayfly.EventQuery) ([]dayfly.Event, error) {
	if len(query.Types) > maxTypes {
		return nil, dayfly.Errorf(dayfly.Invalid, "%d types of event are named: there are only %d", len(query.Types), len(dayfly.EventTypes()))
	}
	var w where
	w.and("seq > ?", query.After)
	if query.Namespace != "" {
		w.and("namespace = ?", query.Namespace)
		w.and("seq > COALESCE((SELECT since FROM namespaces WHERE name = ?), 0)", query.Namespace)
	}
	if query.Workspace != "" {
		w.and("workspace = ?", string(query.Workspace))
	}
	in(&w, "type", query.Types)
	var found []dayfly.Event
	err := s.view(ctx, "events", func(q session) (err error) {
		found, err = all(ctx, q, scanEvent, fmt.Sprintf(`SELECT document FROM events%s ORDER BY seq LIMIT %d`, &w, pageSize(query.Limit)), w.args...)
		return err
	})
	return found, err
}

// LastEvent returns the Seq of the newest event there ever was; 0: there was
// none.
func (s *Store) LastEvent(ctx context.Context) (int64, error) {
	var seq int64
	err := s.view(ctx, "last event", func(q session) error {
		return q.one(ctx, []any{&seq}, `SELECT value FROM counters WHERE name = 'events'`)
	})
	return seq, err
}
