package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/dayfly/dayfly"
)

// AddAudit appends entries to the audit log. Their Seq is set by the store.
func (s *Store) AddAudit(ctx context.Context, entries ...dayfly.AuditEntry) error {
	if len(entries) == 0 {
		return nil
	}
	return s.change(ctx, "write the audit log", func(ctx context.Context, q session) error {
		seq, err := q.take(ctx, "audit", len(entries))
		if err != nil {
			return err
		}
		for i, e := range entries {
			e.Seq, e.At = seq+int64(i), exact(e.At)
			text, err := document(e)
			if err != nil {
				return err
			}
			if _, err := q.exec(ctx, `INSERT INTO audit (seq, namespace, at, document) VALUES ($1, $2, $3, $4)`,
				e.Seq, e.Namespace, micros(e.At), text); err != nil {
				return err
			}
		}
		return nil
	})
}

func scanAudit(rows *sql.Rows) (dayfly.AuditEntry, error) {
	var e dayfly.AuditEntry
	var text []byte
	if err := rows.Scan(&text); err != nil {
		return e, err
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("document of an audit entry: %w", err)
	}
	return e, nil
}

// Audit returns entries, the newest first. Those of an earlier namespace of the
// same name are among them: they are for who manages the host.
func (s *Store) Audit(ctx context.Context, query dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	var w where
	if query.Namespace != "" {
		w.and("namespace = ?", query.Namespace)
	}
	if query.Before > 0 {
		w.and("seq < ?", query.Before)
	}
	var found []dayfly.AuditEntry
	err := s.view(ctx, "audit log", func(q session) (err error) {
		found, err = all(ctx, q, scanAudit, fmt.Sprintf(`SELECT document FROM audit%s ORDER BY seq DESC LIMIT %d`, &w, pageSize(query.Limit)), w.args...)
		return err
	})
	return found, err
}
