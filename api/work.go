package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// quietTime is the least time between two reports of the same step. Work may
// report every block it copies; people and pipes need fewer.
const quietTime = 100 * time.Millisecond

// lines are the reply to long work: lines of JSON, begun at the first of them.
type lines struct {
	w  http.ResponseWriter
	rc *http.ResponseController

	mu    sync.Mutex
	begun bool
	last  map[string]dayfly.Progress // by step, what was sent
	sent  map[string]time.Time
}

// work answers r with what do reports and, in the end, its event or error.
func (s *Server) work(w http.ResponseWriter, r *http.Request, do func(context.Context, Report) (WorkLine, error)) {
	rc := http.NewResponseController(w)
	// An upload is reported on while it is still being read. The error of a
	// writer that cannot (a test's recorder) changes nothing.
	_ = rc.EnableFullDuplex()
	ev := &lines{w: w, rc: rc, last: map[string]dayfly.Progress{}, sent: map[string]time.Time{}}
	end, err := do(r.Context(), ev.progress)
	if err != nil {
		e := public(err)
		if !ev.begun {
			s.refuse(w, r, err)
			return
		}
		s.logRefusal(r, e, err)
		end = WorkLine{Error: e}
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.line(end)
}

func (ev *lines) progress(p dayfly.Progress) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	last, seen := ev.last[p.Step]
	complete := p.Total > 0 && p.Done >= p.Total && p != last
	if now := time.Now(); !seen || complete || p != last && now.Sub(ev.sent[p.Step]) >= quietTime {
		ev.last[p.Step], ev.sent[p.Step] = p, now
		ev.line(WorkLine{Progress: &p})
	}
}

// line sends one event at once. A write that fails has ended the request's
// context already.
func (ev *lines) line(e WorkLine) {
	if !ev.begun {
		ev.begun = true
		ev.w.Header().Set("Content-Type", "application/x-ndjson")
		ev.w.Header().Set("X-Content-Type-Options", "nosniff")
		ev.w.WriteHeader(http.StatusOK)
	}
	_ = json.NewEncoder(ev.w).Encode(e)
	_ = ev.rc.Flush()
}
