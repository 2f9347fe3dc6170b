package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// ledger holds audit entries on their way to the store.
type ledger struct {
	wake chan struct{}
	mu   sync.Mutex
	list []dayfly.AuditEntry
}

// maxLedger bounds what waits for a store that is away; what comes then is
// in the log alone.
const maxLedger = 10_000

// AddAudit has a change noted. It does not wait for the store; a server that is
// killed in the same instant may lose the entry.
func (c *Control) AddAudit(_ context.Context, e dayfly.AuditEntry) {
	if e.At.IsZero() {
		e.At = c.now()
	}
	c.audit.mu.Lock()
	defer c.audit.mu.Unlock()
	select {
	case c.audit.wake <- struct{}{}:
	default:
	}
	if len(c.audit.list) >= maxLedger {
		c.log.Error("audit entry lost: the store is away for too long", "action", e.Action, "target", e.Target, "key", e.Key, "status", e.Status)
		return
	}
	c.audit.list = append(c.audit.list, e)
}

func (c *Control) flushAudit(ctx context.Context) {
	for {
		select {
		case <-c.audit.wake:
		case <-ctx.Done():
			c.writeAudit(ctx)
			return
		}
		for !c.writeAudit(ctx) && sleep(ctx, storeRetry) {
		}
	}
}

// writeAudit writes what waits, and returns false if the store did not take it.
func (c *Control) writeAudit(ctx context.Context) bool {
	c.audit.mu.Lock()
	list := c.audit.list
	c.audit.mu.Unlock()
	if len(list) == 0 {
		return true
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := c.counted(c.db.AddAudit(late, list...)); err != nil {
		c.log.Warn("audit entries wait", "entries", len(list), "err", err)
		return false
	}
	c.audit.mu.Lock()
	defer c.audit.mu.Unlock()
	c.audit.list = c.audit.list[len(list):]
	return true
}

// Audit returns entries, newest first: all for admins, those of its namespace for
// everybody else.
func (c *Control) Audit(ctx context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return nil, err
	}
	q.Namespace = within(ctx, q.Namespace)
	list, err := c.db.Audit(ctx, q)
	return list, c.counted(err)
}

// prune forgets once an hour what is older than Retention.
func (c *Control) prune(ctx context.Context) {
	for sleep(ctx, time.Hour) {
		late, cancel := context.WithTimeout(ctx, 6*storeTimeout)
		if err := c.counted(c.db.Prune(late, c.now().Add(-c.opt.Retention))); err != nil && !errors.Is(err, context.Canceled) {
			c.log.Warn("prune of old events", "err", err)
		}
		cancel()
	}
}
