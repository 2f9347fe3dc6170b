package control

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control/webhook"
	"github.com/dayfly/dayfly/store"
)

// bell wakes all who wait for news.
type bell struct {
	mu   sync.Mutex
	c    chan struct{}
	also func()
}

// next is closed at the next ring.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil {
		close(b.c)
		b.c = nil
	}
	if b.also != nil {
		b.also()
	}
}

// Events returns events the caller may see, in the order of Seq.
func (c *Control) Events(ctx context.Context, q dayfly.EventQuery) ([]dayfly.Event, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	caller := dayfly.CallerOf(ctx)
	q.Namespace = within(ctx, q.Namespace)
	if caller.Workspace != "" {
		if q.Workspace != "" && q.Workspace != caller.Workspace {
			return nil, notFound(q.Workspace)
		}
		q.Workspace = caller.Workspace
	}
	list, err := c.db.Events(ctx, q)
	return list, c.counted(err)
}

// LastEvent returns the Seq of the newest event, whoever may see it.
func (c *Control) LastEvent(ctx context.Context) (int64, error) {
	if err := c.open(); err != nil {
		return 0, err
	}
	last, err := c.db.LastEvent(ctx)
	return last, c.counted(err)
}

// AwaitEvent returns once there may be an event with a larger Seq than after.
func (c *Control) AwaitEvent(ctx context.Context, after int64) error {
	if err := c.open(); err != nil {
		return err
	}
	rung := c.bell.next()
	last, err := c.db.LastEvent(ctx)
	if err != nil {
		return c.counted(err)
	}
	if last > after {
		return nil
	}
	select {
	case <-rung:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.closing:
		return c.open()
	}
}

// secretChars is how long a webhook's secret is: 200 random bits. Base32 in whole
// groups of four is base64, too, in which a key of 30 bytes is read out of it.
const secretChars = 40

// maxWebhooks bounds those of one namespace.
const maxWebhooks = 100

// CreateWebhook has events of the caller's namespace, or of all for an admin who
// has chosen none, sent to a URL. Its Secret is in this answer only, and with
// Caller.Once in the answer to the same request by the same key.
func (c *Control) CreateWebhook(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return dayfly.Webhook{}, err
	}
	w.Namespace = within(ctx, w.Namespace)
	if err := checkWebhook(w); err != nil {
		return dayfly.Webhook{}, err
	}
	// A secret is for whoever has made it: another's key is another request.
	once, err := c.once(ctx, "webhook", w.Namespace, w.URL, w.Types, w.Active, dayfly.CallerOf(ctx).Key)
	if err != nil {
		return dayfly.Webhook{}, err
	}
	defer once.leave()
	if once.again {
		is, err := c.db.Webhook(ctx, once.made[0])
		return is, c.counted(once.orGone(err))
	}
	return c.addWebhook(ctx, w, once.Once)
}

func (c *Control) addWebhook(ctx context.Context, w dayfly.Webhook, once store.Once) (dayfly.Webhook, error) {
	had, err := c.db.Webhooks(ctx, w.Namespace)
	if err != nil {
		return dayfly.Webhook{}, c.counted(err)
	}
	if len(had) >= maxWebhooks {
		return dayfly.Webhook{}, dayfly.Errorf(dayfly.Exhausted, "there are %d webhooks, the most there may be: delete one", len(had))
	}
	w.ID, w.Secret, w.CreatedAt = "wh"+randomText(16), webhook.SecretPrefix+randomText(secretChars), c.now()
	err = c.counted(c.db.CreateWebhook(ctx, w, once))
	c.hooks.Wake()
	return w, err
}

func checkWebhook(w dayfly.Webhook) error {
	for _, t := range w.Types {
		if !slices.Contains(dayfly.EventTypes(), t) {
			return dayfly.Errorf(dayfly.Invalid, "%q is no type of event", t)
		}
	}
	return webhook.CheckURL(w.URL)
}

// Webhooks returns those the caller may see, without their secrets.
func (c *Control) Webhooks(ctx context.Context) ([]dayfly.Webhook, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return nil, err
	}
	list, err := c.db.Webhooks(ctx, dayfly.CallerOf(ctx).Namespace)
	for i := range list {
		list[i].Secret = ""
	}
	return list, c.counted(err)
}

// Webhook returns one, without its secret.
func (c *Control) Webhook(ctx context.Context, id string) (dayfly.Webhook, error) {
	w, err := c.webhook(ctx, id)
	w.Secret = ""
	return w, err
}

func (c *Control) webhook(ctx context.Context, id string) (dayfly.Webhook, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return dayfly.Webhook{}, err
	}
	w, err := c.db.Webhook(ctx, id)
	if err != nil {
		return dayfly.Webhook{}, c.counted(err)
	}
	if caller := dayfly.CallerOf(ctx); caller.Bound && w.Namespace != caller.Namespace {
		return dayfly.Webhook{}, dayfly.Errorf(dayfly.NotFound, "there is no webhook %s", id)
	}
	return w, nil
}

// UpdateWebhook sets URL, Types and Active of the webhook with w's ID.
func (c *Control) UpdateWebhook(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error) {
	is, err := c.webhook(ctx, w.ID)
	if err != nil {
		return dayfly.Webhook{}, err
	}
	is.URL, is.Types, is.Active = w.URL, w.Types, w.Active
	if err := checkWebhook(is); err != nil {
		return dayfly.Webhook{}, err
	}
	err = c.counted(c.db.UpdateWebhook(ctx, is))
	is.Secret = ""
	c.hooks.Wake()
	return is, err
}

// DeleteWebhook ends a webhook; what is not sent is not sent any more.
func (c *Control) DeleteWebhook(ctx context.Context, id string) error {
	if _, err := c.webhook(ctx, id); err != nil {
		return err
	}
	return c.counted(c.db.DeleteWebhook(ctx, id))
}

// Deliveries returns the latest of a webhook, newest first.
func (c *Control) Deliveries(ctx context.Context, id string) ([]dayfly.Delivery, error) {
	if _, err := c.webhook(ctx, id); err != nil {
		return nil, err
	}
	list, err := c.db.Deliveries(ctx, id, dayfly.DefaultPage)
	return list, c.counted(err)
}

// randomText returns n lower-case base32 characters, five random bits each.
func randomText(n int) string {
	b := make([]byte, (n*5+7)/8)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))[:n]
}
