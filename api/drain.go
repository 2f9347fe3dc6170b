package api

import (
	"context"
	"net/http"

	"github.com/dayfly/dayfly"
)

var errDraining = dayfly.Errorf(dayfly.Unavailable, "the server is shutting down: connect again")

// Drain ends the replies that would never end by themselves, such as streams of
// events. It is for a server that takes no more requests and waits for the rest.
func (s *Server) Drain() { s.drainOnce.Do(func() { close(s.draining) }) }

// endless says whether a reply ends only when its caller leaves.
func endless(r *http.Request) bool {
	follow := r.URL.Query().Get("follow")
	return wantsEvents(r) || r.Header.Get("Upgrade") != "" || follow != "" && follow != "false"
}

// untilDrained returns a context that also ends when the server drains.
func (s *Server) untilDrained(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.draining:
			cancel(errDraining)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}
