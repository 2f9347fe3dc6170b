package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/dayfly/dayfly"
)

func scanWebhook(rows *sql.Rows) (dayfly.Webhook, error) {
	var w dayfly.Webhook
	var text []byte
	if err := rows.Scan(&text); err != nil {
		return w, err
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return w, fmt.Errorf("document of a webhook: %w", err)
	}
	return w, nil
}

// typeList is how a webhook's types are stored: ,a,b, or empty for all.
func typeList(types []dayfly.EventType) string {
	if len(types) == 0 {
		return ""
	}
	var b strings.Builder
	for _, t := range types {
		b.WriteString("," + string(t))
	}
	return b.String() + ","
}

func noWebhook(id string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return dayfly.Errorf(dayfly.NotFound, "there is no webhook %q", id)
	}
	return err
}

// CreateWebhook adds a webhook. It gets what happens from now on. Its secret is
// stored as it is given, since what is sent has to be signed with it.
func (s *Store) CreateWebhook(ctx context.Context, w dayfly.Webhook, once Once) error {
	w.CreatedAt = exact(w.CreatedAt)
	return s.change(ctx, "create a webhook", func(ctx context.Context, q session) error {
		return q.once(ctx, once, []string{w.ID}, s.now(), func() error { return q.insertWebhook(ctx, w) })
	})
}

func (q session) insertWebhook(ctx context.Context, w dayfly.Webhook) error {
	text, err := document(w)
	if err != nil {
		return err
	}
	if w.Namespace != "" {
		if _, err := q.lockNamespace(ctx, w.Namespace); err != nil {
			return err
		}
	}
	_, err = q.exec(ctx, `INSERT INTO webhooks (id, namespace, active, types, since, created_at, document)
		VALUES ($1, $2, $3, $4, (SELECT value FROM counters WHERE name = 'events'), $5, $6)`,
		w.ID, w.Namespace, bit(w.Active), typeList(w.Types), micros(w.CreatedAt), text)
	if duplicate(err) != "" {
		return dayfly.Errorf(dayfly.Conflict, "webhook %s is there already", w.ID)
	}
	return err
}

// Webhook returns one with its secret.
func (s *Store) Webhook(ctx context.Context, id string) (dayfly.Webhook, error) {
	var w dayfly.Webhook
	err := s.view(ctx, "webhook", func(q session) (err error) {
		w, err = first(all(ctx, q, scanWebhook, `SELECT document FROM webhooks WHERE id = $1`, id))
		return noWebhook(id, err)
	})
	return w, err
}

// Webhooks returns those of a namespace, or, if that is empty, all, with their
// secrets; the newest first.
func (s *Store) Webhooks(ctx context.Context, namespace string) ([]dayfly.Webhook, error) {
	var conditions where
	if namespace != "" {
		conditions.and("namespace = ?", namespace)
	}
	var found []dayfly.Webhook
	err := s.view(ctx, "webhooks", func(q session) (err error) {
		found, err = all(ctx, q, scanWebhook, `SELECT document FROM webhooks`+conditions.String()+` ORDER BY created_at DESC, id DESC`, conditions.args...)
		return err
	})
	return found, err
}

// UpdateWebhook replaces a webhook but for its namespace and CreatedAt; with an
// empty secret, it keeps its own. What was waiting to be delivered still is.
func (s *Store) UpdateWebhook(ctx context.Context, w dayfly.Webhook) error {
	return s.change(ctx, "update a webhook", func(ctx context.Context, q session) error {
		before, err := first(all(ctx, q, scanWebhook, `UPDATE webhooks SET active = active WHERE id = $1 RETURNING document`, w.ID))
		if err != nil {
			return noWebhook(w.ID, err)
		}
		w.Namespace, w.CreatedAt = before.Namespace, before.CreatedAt
		if w.Secret == "" {
			w.Secret = before.Secret
		}
		text, err := document(w)
		if err != nil {
			return err
		}
		_, err = q.exec(ctx, `UPDATE webhooks SET active = $2, types = $3, document = $4 WHERE id = $1`,
			w.ID, bit(w.Active), typeList(w.Types), text)
		return err
	})
}

// DeleteWebhook removes a webhook and its deliveries.
func (s *Store) DeleteWebhook(ctx context.Context, id string) error {
	return s.change(ctx, "delete a webhook", func(ctx context.Context, q session) error {
		n, err := q.exec(ctx, `DELETE FROM webhooks WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = sql.ErrNoRows
		}
		return noWebhook(id, err)
	})
}
