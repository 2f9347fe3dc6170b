package control_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/store"
)

// auditStore counts transactions of the audit log, and may hold them up.
type auditStore struct {
	*store.Store
	mu    sync.Mutex
	times int
	held  chan struct{} // they wait until it is closed, if there is one
}

func (s *auditStore) AddAudit(ctx context.Context, e ...dayfly.AuditEntry) error {
	s.mu.Lock()
	s.times++
	held := s.held
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return dayfly.Errorf(dayfly.Unavailable, "the database is locked")
		}
	}
	return s.Store.AddAudit(ctx, e...)
}

func (s *auditStore) hold(held chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
}

// withAudit runs a test in a bubble, with a store whose audit log is slow.
func withAudit(t *testing.T, f func(*testing.T, *world, *auditStore)) {
	var s *auditStore
	rules(t, func(t *testing.T, w *world) { f(t, w, s) }, func(o *control.Options) {
		s = &auditStore{Store: o.Store.(*store.Store)}
		o.Store = s
	})
}

func (w *world) audited() (requests []string) {
	w.t.Helper()
	list, err := w.db.Audit(context.Background(), dayfly.AuditQuery{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range list {
		requests = append(requests, e.Request)
	}
	return requests
}

// TestAuditEntryIsStoredBeforeItsCallerGoesOn, and those of many callers share
// transactions.
func TestAuditEntryIsStoredBeforeItsCallerGoesOn(t *testing.T) {
	withAudit(t, func(t *testing.T, w *world, s *auditStore) {
		held := make(chan struct{})
		s.hold(held)
		var callers sync.WaitGroup
		for i := range 50 {
			callers.Go(func() {
				w.AddAudit(t.Context(), dayfly.AuditEntry{Action: "POST /v1/keys", Request: fmt.Sprint(i)})
				for _, r := range w.audited() {
					if r == fmt.Sprint(i) {
						return
					}
				}
				t.Errorf("entry %d is not in the store", i)
			})
		}
		synctest.Wait()
		close(held)
		callers.Wait()
		if n := len(w.audited()); n != 50 || s.times > 3 {
			t.Errorf("%d entries in %d transactions", n, s.times)
		}
	})
}

// TestStoreThatHangsDelaysOneChangeAndNotTheNext: the entries follow.
func TestStoreThatHangsDelaysOneChangeAndNotTheNext(t *testing.T) {
	withAudit(t, func(t *testing.T, w *world, s *auditStore) {
		held := make(chan struct{})
		s.hold(held)
		for i, most := range []time.Duration{3 * time.Second, 0, 0} {
			began := time.Now()
			w.AddAudit(t.Context(), dayfly.AuditEntry{Action: "POST /v1/keys", Request: fmt.Sprint(i)})
			if took := time.Since(began); took > most {
				t.Errorf("change %d waited for %s", i, took)
			}
		}
		s.hold(nil)
		close(held)
		after(time.Minute)
		if got := w.audited(); len(got) != 3 {
			t.Fatalf("entries of %v", got)
		}
		w.AddAudit(t.Context(), dayfly.AuditEntry{Action: "POST /v1/keys", Request: "last"})
		if got := w.audited(); len(got) != 4 {
			t.Errorf("a store that is back is not waited for: %v", got)
		}
	})
}

func TestServerThatEndsWritesItsAudit(t *testing.T) {
	withAudit(t, func(t *testing.T, w *world, s *auditStore) {
		held := make(chan struct{})
		s.hold(held)
		w.AddAudit(t.Context(), dayfly.AuditEntry{Request: "a"}) // it has waited
		w.AddAudit(t.Context(), dayfly.AuditEntry{Request: "b"})
		s.hold(nil)
		close(held)
		w.close()
		if got := w.audited(); len(got) != 2 {
			t.Errorf("entries of %v", got)
		}
		w.open()
	})
}
