package control

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// gate is admission: so many starts at once, since more of them make each other
// slower without making the host faster; so many callers waiting, in order of
// arrival; and a refusal for everybody beyond.
type gate struct {
	places, queue int

	mu      sync.Mutex
	taken   int
	waiting list.List // of chan struct{}, closed when its owner has a place
	mean    time.Duration
	refused int64
}

func newGate(places, queue int) *gate {
	return &gate{places: places, queue: queue, mean: time.Second}
}

// enter waits for a place and returns how to give it back, once or more often.
// The server's own starts, which nobody could try again, wait in any number.
func (g *gate) enter(ctx context.Context, own bool) (leave func(), err error) {
	g.mu.Lock()
	if g.taken < g.places {
		g.taken++
		g.mu.Unlock()
		return g.leave(), nil
	}
	if n := g.waiting.Len(); n >= g.queue && !own {
		g.refused++
		err := dayfly.Errorf(dayfly.Exhausted, "%d starts are waiting already, the most there may be: try again later, or add a host", n)
		err.RetryAfter = g.estimate(n)
		g.mu.Unlock()
		return nil, err
	}
	turn := make(chan struct{})
	me := g.waiting.PushBack(turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return g.leave(), nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-turn: // at the same moment
		g.next()
	default:
		g.waiting.Remove(me)
	}
	return nil, cutOff(ctx, "waiting for its turn to start")
}

func (g *gate) leave() func() {
	began, once := time.Now(), sync.Once{}
	return func() {
		once.Do(func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.mean += (time.Since(began) - g.mean) / 8
			g.next()
		})
	}
}

// next gives a place that has become free to who has waited longest. The caller
// holds mu.
func (g *gate) next() {
	if e := g.waiting.Front(); e != nil {
		g.waiting.Remove(e)
		close(e.Value.(chan struct{}))
		return
	}
	g.taken--
}

// estimate is when half of those who wait will have had their turn.
func (g *gate) estimate(waiting int) time.Duration {
	after := g.mean * time.Duration(waiting) / time.Duration(2*g.places)
	return min(max(after.Round(time.Second), time.Second), time.Minute)
}

// load returns how many have a place, how many wait and how many were refused.
func (g *gate) load() (taken, waiting int, refused int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.taken, g.waiting.Len(), g.refused
}

// cutOff words the end of a call by its caller, or by the server.
func cutOff(ctx context.Context, doing string) error {
	err := dayfly.Errorf(dayfly.Unavailable, "%s was cut off", doing)
	err.Err = context.Cause(ctx)
	return err
}
