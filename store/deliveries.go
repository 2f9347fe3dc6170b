package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
)

// Enqueue makes deliveries of the events after the last enqueued one up to a
// Seq, one for every active webhook that wants them, due at once, and returns
// how many. It may be repeated, after a crash as well: no event is enqueued
// twice or left out.
func (s *Store) Enqueue(ctx context.Context, upTo int64) (int, error) {
	var made int64
	err := s.change(ctx, "enqueue deliveries", func(ctx context.Context, q session) error {
		made = 0
		var from, last int64
		// The lock on this row is what makes one Enqueue follow another.
		err := q.one(ctx, []any{&from, &last}, `UPDATE counters SET value = value WHERE name = 'enqueued'
			RETURNING value, (SELECT value FROM counters WHERE name = 'events')`)
		if err != nil {
			return err
		}
		upTo := min(upTo, last) // what is not there yet must not count as enqueued
		if upTo <= from {
			return nil
		}
		made, err = q.exec(ctx, `INSERT INTO deliveries (webhook, seq, attempts, status, error, next_at)
			SELECT w.id, e.seq, 0, 0, '', e.at FROM events e JOIN webhooks w
				ON w.active = 1 AND e.seq > w.since
				AND (w.namespace = '' OR w.namespace = e.namespace)
				AND (w.types = '' OR w.types LIKE '%,' || e.type || ',%')
			WHERE e.seq > $1 AND e.seq <= $2
			ON CONFLICT (webhook, seq) DO NOTHING`, from, upTo)
		if err != nil {
			return err
		}
		_, err = q.exec(ctx, `UPDATE counters SET value = $1 WHERE name = 'enqueued'`, upTo)
		return err
	})
	return int(made), err
}

const deliveryColumns = `d.webhook, d.attempts, d.status, d.error, d.sent_at, d.done_at, d.next_at, e.document`

func scanDelivery(rows *sql.Rows) (dayfly.Delivery, error) {
	var d dayfly.Delivery
	var sent, done, next sql.NullInt64
	var text []byte
	if err := rows.Scan(&d.Webhook, &d.Attempts, &d.Status, &d.Error, &sent, &done, &next, &text); err != nil {
		return d, err
	}
	d.SentAt, d.DoneAt, d.NextAt = instantPtr(sent), instantPtr(done), instantPtr(next)
	if err := json.Unmarshal(text, &d.Event); err != nil {
		return d, fmt.Errorf("document of an event: %w", err)
	}
	return d, nil
}

// DueDeliveries returns what has to be sent by now, the oldest event first: of
// each active webhook the oldest undone delivery, if it is due. Behind one that
// waits for its next attempt all others of its webhook wait too, so they arrive
// in order.
func (s *Store) DueDeliveries(ctx context.Context, now time.Time, limit int) ([]dayfly.Delivery, error) {
	var found []dayfly.Delivery
	err := s.view(ctx, "due deliveries", func(q session) (err error) {
		found, err = all(ctx, q, scanDelivery, `SELECT `+deliveryColumns+`
			FROM webhooks w
			JOIN deliveries d ON d.webhook = w.id
				AND d.seq = (SELECT MIN(o.seq) FROM deliveries o WHERE o.webhook = w.id AND o.next_at IS NOT NULL)
			JOIN events e ON e.seq = d.seq
			WHERE w.active = 1 AND d.next_at <= $1
			ORDER BY d.seq, d.webhook LIMIT $2`, micros(now), pageSize(limit))
		return err
	})
	return found, err
}

// SaveDelivery records the outcome of an attempt. NotFound: its webhook was
// deleted meanwhile.
func (s *Store) SaveDelivery(ctx context.Context, d dayfly.Delivery) error {
	return s.change(ctx, "record a delivery", func(ctx context.Context, q session) error {
		var next any
		if d.DoneAt == nil {
			next = microsPtr(d.NextAt)
		}
		n, err := q.exec(ctx, `UPDATE deliveries SET attempts = $3, status = $4, error = $5, sent_at = $6, done_at = $7, next_at = $8
			WHERE webhook = $1 AND seq = $2`,
			d.Webhook, d.Event.Seq, d.Attempts, d.Status, d.Error, microsPtr(d.SentAt), microsPtr(d.DoneAt), next)
		if err == nil && n == 0 {
			return dayfly.Errorf(dayfly.NotFound, "there is no delivery of event %d to webhook %q", d.Event.Seq, d.Webhook)
		}
		return err
	})
}

// Deliveries returns those of a webhook, the newest event first.
func (s *Store) Deliveries(ctx context.Context, webhook string, limit int) ([]dayfly.Delivery, error) {
	var found []dayfly.Delivery
	err := s.view(ctx, "deliveries", func(q session) (err error) {
		found, err = all(ctx, q, scanDelivery, `SELECT `+deliveryColumns+`
			FROM deliveries d JOIN events e ON e.seq = d.seq
			WHERE d.webhook = $1 ORDER BY d.seq DESC LIMIT $2`, webhook, pageSize(limit))
		return err
	})
	return found, err
}
