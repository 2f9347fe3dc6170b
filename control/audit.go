package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// ledger holds audit entries on their way to the store. What comes while a
// transaction is under way goes into the next one together.
type ledger struct {
	wake chan struct{}
	mu   sync.Mutex
	list []dayfly.AuditEntry

	written chan struct{} // closed when what is in list has been tried to be written
	behind  bool          // the store does not take them: nobody waits for it
	over    bool          // nobody writes any more
}

// maxLedger bounds what waits for a store that is away; what comes then is
// in the log alone.
const maxLedger = 10_000

// auditTimeout is how long a change that is done waits for its entry before its
// caller is answered.
const auditTimeout = 2 * time.Second

// AddAudit has a change noted, and returns once that is durable. A store that is
// away is waited for by one of its callers, for a moment: its entries follow when
// it is back, and are lost if the server is killed before.
func (c *Control) AddAudit(_ context.Context, e dayfly.AuditEntry) {
	if e.At.IsZero() {
		e.At = c.now()
	}
	written := c.audit.add(e)
	if written == nil {
		c.log.Error("audit entry lost: the store is away for too long", "action", e.Action, "target", e.Target, "key", e.Key, "status", e.Status)
		return
	}
	select {
	case c.audit.wake <- struct{}{}:
	default:
	}
	late := time.NewTimer(auditTimeout)
	defer late.Stop()
	select {
	case <-written:
	case <-late.C:
		c.audit.fallBehind(written)
	}
}

// longWritten is closed.
var longWritten = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// add returns what is closed once the entry has been written, or need not be
// waited for; nil: it is lost.
func (l *ledger) add(e dayfly.AuditEntry) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || len(l.list) >= maxLedger {
		return nil
	}
	l.list = append(l.list, e)
	if l.behind {
		return longWritten
	}
	if l.written == nil {
		l.written = make(chan struct{})
	}
	return l.written
}

// fallBehind is called by who has waited for too long.
func (l *ledger) fallBehind(written <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-written: // at the last moment
	default:
		l.behind = true
	}
}

// take returns what is to be written.
func (l *ledger) take() ([]dayfly.AuditEntry, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	written := l.written
	l.written = nil
	return l.list, written
}

// tried takes n entries out that the store has, and lets go who waits for them.
func (l *ledger) tried(n int, written chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.behind = err != nil; err == nil {
		l.list = l.list[n:]
	}
	if written != nil {
		close(written)
	}
}

// close takes no more, if there is nothing to be written.
func (l *ledger) close(lost bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = lost || len(l.list) == 0
	return l.over
}

func (c *Control) flushAudit(ctx context.Context) {
	for {
		select {
		case <-c.audit.wake:
		case <-ctx.Done():
			for !c.audit.close(!c.writeAudit(ctx)) {
			}
			return
		}
		for !c.writeAudit(ctx) && sleep(ctx, storeRetry) {
		}
	}
}

// writeAudit writes what waits, and returns false if the store did not take it.
func (c *Control) writeAudit(ctx context.Context) bool {
	list, written := c.audit.take()
	if len(list) == 0 {
		return true
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	err := c.counted(c.db.AddAudit(late, list...))
	c.audit.tried(len(list), written, err)
	if err != nil {
		c.log.Warn("audit entries wait", "entries", len(list), "err", err)
	}
	return err == nil
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
