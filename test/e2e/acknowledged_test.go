package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
)

// TestAcknowledgedChangesAreInTheAuditLogAfterAKill: whatever was answered, by
// the id of its request.
func TestAcknowledgedChangesAreInTheAuditLogAfterAKill(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serveOn(t, state)
	answered := map[string]bool{}
	for round := range 5 {
		var mu sync.Mutex
		var callers sync.WaitGroup
		n, most, enough := 0, 20+rand.IntN(40), make(chan struct{})
		for i := range 4 {
			c := s.raw()
			callers.Go(func() {
				for k := 0; ; k++ {
					request := fmt.Sprintf("r%d-%d-%d", round, i, k)
					a, err := c.do(t.Context(), "POST", "/v1/namespaces", map[string]any{"name": request}, "X-Request-Id", request)
					if err != nil {
						return
					}
					mu.Lock()
					answered[request] = a.status == http.StatusCreated
					if n++; n == most {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		s.kill(t)
		callers.Wait()
		s = serveOn(t, state)
	}
	written := s.audited(t)
	for request, made := range answered {
		if !written[request] || !made {
			t.Errorf("%s was answered (made: %v) and is in the audit log: %v", request, made, written[request])
		}
	}
}

// audited are the requests that are in the audit log.
func (s *server) audited(t *testing.T) map[string]bool {
	t.Helper()
	written := map[string]bool{}
	q := words.AuditQuery{Limit: words.MaxPage}
	for {
		list, err := s.Keys.Audit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			written[e.Request] = true
			q.Before = e.Seq
		}
		if len(list) < q.Limit {
			return written
		}
	}
}

// TestRepeatedForkAndSnapshotSurviveAKill: the same request with the same key
// has the same answer from the next server.
func TestRepeatedForkAndSnapshotSurviveAKill(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serveOn(t, state)
	at := "/v1/workspaces/" + string(s.create(t))
	ask := func(c *caller) (fork words.Page, sn words.Snapshot) {
		c.must(t, http.StatusCreated, "POST", at+"/fork", map[string]any{"count": 2}, &fork, "Idempotency-Key", "fork")
		c.must(t, http.StatusCreated, "POST", at+"/snapshots", map[string]any{"name": "one"}, &sn, "Idempotency-Key", "snapshot")
		return fork, sn
	}
	fork, sn := ask(s.raw())
	s.kill(t)
	s = serveOn(t, state)
	again, same := ask(s.raw())
	if len(again.Workspaces) != 2 || again.Workspaces[0].ID != fork.Workspaces[0].ID || again.Workspaces[1].ID != fork.Workspaces[1].ID || same.ID != sn.ID {
		t.Errorf("%v and %s, then %v and %s", fork.Workspaces, sn.ID, again.Workspaces, same.ID)
	}
	var page words.Page
	if s.raw().must(t, http.StatusOK, "GET", "/v1/workspaces", nil, &page); len(page.Workspaces) != 3 {
		t.Errorf("there are %d workspaces", len(page.Workspaces))
	}
}
