// Package webhook sends events to the URLs that asked for them.
//
// What is to be sent, and when, is in the store: a server that is killed sends
// on after its start, and may send the last event twice, with the same id. Whom
// to send what is the store's to say; signing, trying again and giving up is
// done here.
//
// Always true: events of one webhook arrive in order, each tried until it is
// taken or a day has passed; a receiver that hangs holds up nobody else; no
// request follows a redirect, or reaches a link-local address, which is where
// clouds keep credentials, or, unless allowed, a private one.
package webhook

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
)

// Times and bounds of deliveries.
const (
	attemptTimeout = 10 * time.Second
	firstRetry     = time.Second
	lastRetry      = time.Hour
	giveUpAfter    = 24 * time.Hour
	maxAnswer      = 4 << 10 // of a receiver's body, to keep its connection; the rest is not read
	batch          = 100
	lookEvery      = 10 * time.Second // for retries of a server before this one, and events of another
)

// Store is what has to be remembered.
type Store interface {
	LastEvent(ctx context.Context) (int64, error)
	Enqueue(ctx context.Context, upTo int64) (int, error)
	DueDeliveries(ctx context.Context, now time.Time, limit int) ([]dayfly.Delivery, error)
	SaveDelivery(ctx context.Context, d dayfly.Delivery) error
	Webhook(ctx context.Context, id string) (dayfly.Webhook, error)
	Webhooks(ctx context.Context, namespace string) ([]dayfly.Webhook, error)
}

// Options are what a Sender is made of.
type Options struct {
	Store   Store
	Log     *slog.Logger
	Private bool             // loopback and private addresses may be reached
	Now     func() time.Time // wall clock
}

// Sender sends events. Run it.
type Sender struct {
	Options
	wake chan struct{}
	done chan ended
	post *poster

	// of Run
	busy   map[string]bool      // webhooks that have an attempt under way
	later  map[string]time.Time // when those that failed are tried again
	queued int64                // the last event that deliveries were made of
}

// ended is an attempt that has ended, and when the next is due, if it is known.
type ended struct {
	webhook string
	next    *time.Time
}

// New returns a Sender.
func New(o Options) *Sender {
	return &Sender{
		Options: o, wake: make(chan struct{}, 1), done: make(chan ended), post: newPoster(o.Private),
		busy: map[string]bool{}, later: map[string]time.Time{},
	}
}

// Wake says that there may be new events. It does not wait.
func (s *Sender) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends, and returns when nothing is under way.
func (s *Sender) Run(ctx context.Context) {
	defer s.post.close()
	look := time.NewTimer(0)
	defer look.Stop()
	for ctx.Err() == nil {
		if err := s.begin(ctx); err != nil && ctx.Err() == nil {
			s.Log.Debug("webhooks", "err", err)
		}
		look.Reset(s.pause())
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-look.C:
		case e := <-s.done:
			s.conclude(e)
		}
	}
	for len(s.busy) > 0 {
		s.conclude(<-s.done)
	}
}

func (s *Sender) conclude(e ended) {
	delete(s.busy, e.webhook)
	delete(s.later, e.webhook)
	if e.next != nil {
		s.later[e.webhook] = *e.next
	}
}

// pause is how long nothing is due, as far as is known. A clock that steps is
// noticed at the next look.
func (s *Sender) pause() time.Duration {
	wait, now := lookEvery, s.Now()
	for id, at := range s.later {
		if !s.busy[id] {
			wait = min(wait, max(at.Sub(now), time.Millisecond))
		}
	}
	return wait
}

// begin starts an attempt for every webhook that has one due and none under way.
func (s *Sender) begin(ctx context.Context) error {
	hooks, err := s.Store.Webhooks(ctx, "")
	if err != nil || !slices.ContainsFunc(hooks, func(w dayfly.Webhook) bool { return w.Active }) {
		return err // without any, events cost no write
	}
	last, err := s.Store.LastEvent(ctx)
	if err != nil {
		return err
	}
	if last > s.queued {
		if _, err := s.Store.Enqueue(ctx, last); err != nil {
			return err
		}
		s.queued = last
	}
	due, err := s.Store.DueDeliveries(ctx, s.Now(), batch)
	if err != nil {
		return err
	}
	for _, d := range due {
		if s.busy[d.Webhook] {
			continue
		}
		s.busy[d.Webhook] = true
		go func() { s.done <- ended{d.Webhook, s.attempt(ctx, d)} }()
	}
	return nil
}

// attempt sends one event once, notes what came of it and returns when it is to
// be tried again, if it is.
func (s *Sender) attempt(ctx context.Context, d dayfly.Delivery) *time.Time {
	w, err := s.Store.Webhook(ctx, d.Webhook)
	if err != nil || !w.Active {
		return nil // it is gone, or off, and its deliveries with it
	}
	at := s.Now()
	status, err := s.post.send(ctx, w, d.Event, at)
	if ctx.Err() != nil {
		return nil // cut off: it counts as not tried
	}
	d = after(d, at, status, err)
	if err := s.Store.SaveDelivery(context.WithoutCancel(ctx), d); err != nil {
		s.Log.Warn("note of a delivery", "webhook", d.Webhook, "err", err) // sent again, with the same id
		again := at.Add(retryAfter(d.Attempts))
		return &again
	}
	if d.DoneAt == nil && d.NextAt == nil {
		s.Log.Warn("webhook given up for an event", "webhook", d.Webhook, "attempts", d.Attempts, "err", d.Error)
	}
	return d.NextAt
}

// after is a delivery after one more attempt.
func after(d dayfly.Delivery, at time.Time, status int, err error) dayfly.Delivery {
	d.Attempts++
	d.Status, d.Error, d.SentAt, d.DoneAt, d.NextAt = status, "", &at, nil, nil
	if err == nil {
		d.DoneAt = &at
		return d
	}
	d.Error = err.Error()
	next := at.Add(retryAfter(d.Attempts))
	if next.Sub(d.Event.At) < giveUpAfter {
		d.NextAt = &next
	}
	return d
}

// retryAfter is the pause after the n-th attempt.
func retryAfter(n int) time.Duration {
	if n > 12 {
		return lastRetry
	}
	return min(firstRetry<<max(n-1, 0), lastRetry)
}
