package store

import (
	"context"
	"time"
)

// pruneBatch is how many rows go in one transaction: a server that has much to
// forget goes on meanwhile.
const pruneBatch = 1000

// prunings are done in this order: an event outlives its deliveries. Each
// removes up to $2 rows that are older than $1.
var prunings = []struct {
	statement string
	fixed     bool // the moment is a day ago, whatever the caller says
}{
	{`DELETE FROM requests WHERE (namespace, key) IN
		(SELECT namespace, key FROM requests WHERE created_at <= $1 LIMIT $2)`, true},
	{`DELETE FROM former_names WHERE (id, until) IN
		(SELECT id, until FROM former_names WHERE at <= $1 LIMIT $2)`, true},
	{`DELETE FROM deliveries WHERE (webhook, seq) IN
		(SELECT d.webhook, d.seq FROM deliveries d JOIN events e ON e.seq = d.seq WHERE d.next_at IS NULL AND e.at < $1 LIMIT $2)`, false},
	{`DELETE FROM events WHERE seq IN
		(SELECT e.seq FROM events e WHERE e.at < $1
			AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = e.seq)
			AND (e.seq <= (SELECT value FROM counters WHERE name = 'enqueued') OR NOT EXISTS (SELECT 1 FROM webhooks))
			LIMIT $2)`, false},
	{`DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at < $1 LIMIT $2)`, false},
}

// Prune removes what happened before a moment: deliveries that are done or given
// up, events that no webhook waits for, and audit entries; and idempotency keys
// and former names that are a day old.
func (s *Store) Prune(ctx context.Context, before time.Time) error {
	for _, p := range prunings {
		moment := before
		if p.fixed {
			moment = s.now().Add(-onceLife)
		}
		for n := int64(pruneBatch); n == pruneBatch; {
			err := s.change(ctx, "prune", func(ctx context.Context, q session) (err error) {
				n, err = q.exec(ctx, p.statement, micros(moment), pruneBatch)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
