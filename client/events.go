package client

import (
	"context"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Events says what happened to workspaces.
type Events struct{ c *Client }

// List returns events, oldest first. The Seq of the last is the After of the
// next page.
func (e *Events) List(ctx context.Context, q dayfly.EventQuery) ([]dayfly.Event, error) {
	l, err := decode[rest.EventList](e.c.rest.ListEvents(ctx, eventParams(q)))
	return l.Events, err
}

func eventParams(q dayfly.EventQuery) *rest.ListEventsParams {
	return &rest.ListEventsParams{
		After: q.After, Workspace: string(q.Workspace), Type: q.Types, Namespace: q.Namespace, Limit: positive(q.Limit),
	}
}

// Waits between two attempts to go on with a stream that broke.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 8 * time.Second // after which it is given up
)

// FollowNew is Follow without the events that are there. What comes while a
// connection that has brought none yet breaks is missed.
func (e *Events) FollowNew(ctx context.Context, q dayfly.EventQuery) iter.Seq2[dayfly.Event, error] {
	return e.follow(ctx, q, true)
}

// Follow goes through the events there are after q.After, and then those that
// come, until ctx ends. A connection that breaks is made anew, and no event is
// missed or comes twice. An error ends it.
func (e *Events) Follow(ctx context.Context, q dayfly.EventQuery) iter.Seq2[dayfly.Event, error] {
	return e.follow(ctx, q, false)
}

func (e *Events) follow(ctx context.Context, q dayfly.EventQuery, onlyNew bool) iter.Seq2[dayfly.Event, error] {
	return func(yield func(dayfly.Event, error) bool) {
		for wait := firstRetry; ; wait *= 2 {
			p := eventParams(q)
			p.New = onlyNew && q.After == 0
			resp, err := e.c.rest.ListEvents(ctx, p, asEvents, func(_ context.Context, r *http.Request) error {
				if !p.New {
					r.Header.Set("Last-Event-ID", strconv.FormatInt(q.After, 10))
				}
				return nil
			})
			var broken error
			for ev, err := range streamOf[dayfly.Event](resp, err, "") {
				if broken = err; err != nil {
					break
				}
				if ev.Seq <= q.After {
					continue
				}
				q.After, wait = ev.Seq, firstRetry
				if !yield(ev, nil) {
					return
				}
			}
			if ctx.Err() != nil {
				yield(dayfly.Event{}, ctx.Err())
				return
			}
			if final := broken != nil && dayfly.KindOf(broken) != dayfly.Unavailable; final || wait > lastRetry {
				if broken == nil {
					broken = dayfly.Errorf(dayfly.Unavailable, "the server ends the stream of events again and again")
				}
				yield(dayfly.Event{}, broken)
				return
			}
			if pause(ctx, wait) != nil {
				yield(dayfly.Event{}, ctx.Err())
				return
			}
		}
	}
}

// Webhooks has events sent to URLs.
type Webhooks struct{ c *Client }

// Create makes a webhook from w's URL and Types. The answer holds its Secret,
// which is not shown again.
func (h *Webhooks) Create(ctx context.Context, w dayfly.Webhook, o ...Option) (dayfly.Webhook, error) {
	return decode[dayfly.Webhook](h.c.rest.CreateWebhook(ctx, &rest.CreateWebhookParams{}, rest.CreateWebhook{Url: w.URL, Types: w.Types}, with(o)))
}

// List returns the webhooks.
func (h *Webhooks) List(ctx context.Context) ([]dayfly.Webhook, error) {
	l, err := decode[rest.WebhookList](h.c.rest.ListWebhooks(ctx))
	return l.Webhooks, err
}

// Get returns one webhook.
func (h *Webhooks) Get(ctx context.Context, id string) (dayfly.Webhook, error) {
	return decode[dayfly.Webhook](h.c.rest.GetWebhook(ctx, id))
}

// Update sets a webhook's URL, Types and Active.
func (h *Webhooks) Update(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error) {
	types := append([]dayfly.EventType{}, w.Types...)
	return decode[dayfly.Webhook](h.c.rest.UpdateWebhook(ctx, w.ID, rest.UpdateWebhook{Url: &w.URL, Types: &types, Active: &w.Active}))
}

// Delete deletes a webhook.
func (h *Webhooks) Delete(ctx context.Context, id string) error {
	return done(h.c.rest.DeleteWebhook(ctx, id))
}

// Deliveries returns the latest deliveries of a webhook, newest first.
func (h *Webhooks) Deliveries(ctx context.Context, id string) ([]dayfly.Delivery, error) {
	l, err := decode[rest.DeliveryList](h.c.rest.ListDeliveries(ctx, id))
	return l.Deliveries, err
}
