package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly/dayfly"
)

var errNoEvents = lacking("events")

// ListEvents answers GET /v1/events.
func (s routes) ListEvents(w http.ResponseWriter, r *http.Request, p ListEventsParams) {
	s.try(w, r, s.o.Events != nil, errNoEvents, func() error {
		q, err := s.eventQuery(r, p)
		if err != nil {
			return err
		}
		if wantsEvents(r) {
			s.stream(w, r, func(ctx context.Context, out *sse) error { return s.follow(ctx, q, out) })
			return nil
		}
		list, err := s.o.Events.Events(r.Context(), q)
		if err == nil {
			s.reply(w, r, http.StatusOK, EventList{Events: orEmpty(list)})
		}
		return err
	})
}

func (s *Server) eventQuery(r *http.Request, p ListEventsParams) (q dayfly.EventQuery, err error) {
	q = dayfly.EventQuery{Types: p.Type, After: p.After}
	if q.Namespace, err = within(r.Context(), p.Namespace); err != nil {
		return q, err
	}
	if q.Limit, err = limitOf(p.Limit); err != nil {
		return q, err
	}
	if len(p.Type) > maxSelectors {
		return q, dayfly.Errorf(dayfly.Invalid, "more than %d types are named", maxSelectors)
	}
	if err := checkTypes(p.Type); err != nil {
		return q, err
	}
	last := r.Header.Get("Last-Event-ID")
	switch {
	case !wantsEvents(r) && p.New:
		return q, dayfly.Errorf(dayfly.Invalid, "new is for a stream: ask for text/event-stream")
	case !wantsEvents(r):
	case last == "" && p.New:
		if q.After, err = s.o.Events.LastEvent(r.Context()); err != nil {
			return q, err
		}
	case last != "":
		if q.After, err = strconv.ParseInt(last, 10, 64); err != nil {
			return q, dayfly.Errorf(dayfly.Invalid, "Last-Event-ID is %q: send the id of an event", clip(last))
		}
	}
	if q.After < 0 {
		return q, dayfly.Errorf(dayfly.Invalid, "after is %d: use the seq of an event", q.After)
	}
	if p.Workspace == "" {
		return q, nil
	}
	// The events of a workspace outlive it; those of others are not shown, as
	// the query is bound to what the caller sees.
	if q.Workspace, err = dayfly.ParseID(p.Workspace); err != nil {
		q.Workspace, err = s.resolve(r, p.Workspace)
	}
	return q, err
}

// Pauses between looks for events that are not for this caller: AwaitEvent tells
// of those as well.
const (
	minPause = 50 * time.Millisecond
	maxPause = time.Second
)

// follow sends the events there are, and then those that come.
func (s *Server) follow(ctx context.Context, q dayfly.EventQuery, out *sse) error {
	var pause time.Duration
	for first := true; ; first = false {
		list, err := s.o.Events.Events(ctx, q)
		if err != nil {
			return err
		}
		if first {
			err = out.mark(q.After)
		}
		for _, e := range list {
			if err == nil {
				err = out.send(event{e.Seq, string(e.Type), e})
			}
			q.After, pause = e.Seq, 0
		}
		if err != nil {
			return err
		}
		if len(list) > 0 {
			continue
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(max(minPause, 2*pause), maxPause)
		if err := s.o.Events.AwaitEvent(ctx, q.After); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
