package e2e

import (
	"net/http"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
	"github.com/dayfly/dayfly/test/postgres"
)

// TestDatabaseThatGoesAwayStopsNothingThatRuns: a server on PostgreSQL goes on
// without it, says no to what it could not remember, and needs nothing but its
// return.
func TestDatabaseThatGoesAwayStopsNothingThatRuns(t *testing.T) {
	t.Parallel()
	db := postgres.Start(t)
	url := db.Database(t)
	s := serveOn(t, newState(t), "--database", url)
	id := s.create(t)
	at := s.count(t, id)

	db.Stop(t)
	at = s.goesOn(t, id, at)
	c := s.raw()
	c.refused(t, http.StatusServiceUnavailable, words.Unavailable, "POST", "/v1/workspaces", small(nil))
	c.refused(t, http.StatusServiceUnavailable, words.Unavailable, "GET", "/readyz", nil)
	c.must(t, http.StatusNoContent, "GET", "/healthz", nil, nil)
	if ws := s.isIn(t, id); ws != words.Running {
		t.Errorf("without the database it is %s", ws)
	}

	db.Run(t)
	at = s.goesOn(t, id, at)
	var ws words.Workspace
	c.must(t, http.StatusCreated, "POST", "/v1/workspaces", small(nil), &ws)
	c.must(t, http.StatusNoContent, "GET", "/readyz", nil, nil)

	s.kill(t) // and what it remembers is all there
	s = serveOn(t, s.state, "--database", url)
	if st := s.isIn(t, ws.ID); st != words.Running {
		t.Errorf("%s is %s", ws.ID, st)
	}
	s.goesOn(t, id, at)
}

// TestBackupIsAWholeServer: what the copy of the database says is what was.
func TestBackupIsAWholeServer(t *testing.T) {
	t.Parallel()
	s := serveOn(t, newState(t))
	kept := s.create(t)
	s.must(t, "stop", string(kept))
	copied := s.state + "/copy.db"
	if r := s.run(t, "system", "backup", copied); r.code != 0 {
		t.Fatalf("backup: %+v", r)
	}
	after := s.create(t)
	s.must(t, "rm", string(after))
	s.stop(t)

	s = serveOn(t, s.state, "--database", "sqlite://"+copied)
	list, err := s.Workspaces.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != kept {
		t.Errorf("restored: %+v, %v", list, err)
	}
	s.must(t, "start", string(kept))
}
