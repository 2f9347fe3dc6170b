package api

import (
	"net/http"
	"net/url"

	"github.com/dayfly/dayfly"
)

var errNoWebhooks = lacking("webhooks")

// ListWebhooks answers GET /v1/webhooks.
func (s routes) ListWebhooks(w http.ResponseWriter, r *http.Request) {
	s.withWebhooks(w, r, func(h Webhooks) error {
		list, err := h.Webhooks(r.Context())
		if err != nil {
			return err
		}
		list = append([]dayfly.Webhook{}, list...)
		for i := range list {
			list[i].Secret = ""
		}
		s.reply(w, r, http.StatusOK, WebhookList{Webhooks: list})
		return nil
	})
}

// CreateWebhook answers POST /v1/webhooks.
func (s routes) CreateWebhook(w http.ResponseWriter, r *http.Request, p CreateWebhookParams) {
	s.withWebhooks(w, r, func(h Webhooks) error {
		var body CreateWebhook
		if err := readJSON(w, r, &body); err != nil {
			return err
		}
		hook := dayfly.Webhook{Namespace: dayfly.CallerOf(r.Context()).Namespace, URL: body.Url, Types: body.Types, Active: body.Active == nil || *body.Active}
		if err := checkWebhook(hook); err != nil {
			return err
		}
		ctx, err := once(r, p.IdempotencyKey)
		if err != nil {
			return err
		}
		hook, err = h.CreateWebhook(ctx, hook)
		if err != nil {
			return err
		}
		exchangeOf(r).target = hook.ID
		s.reply(w, r, http.StatusCreated, hook)
		return nil
	})
}

const maxURL = 2048

func checkWebhook(h dayfly.Webhook) error {
	u, err := url.Parse(h.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(h.URL) > maxURL {
		return dayfly.Errorf(dayfly.Invalid, "url is not one: use http:// or https:// and a host, at most %d bytes in all", maxURL)
	}
	return checkTypes(h.Types)
}

func checkTypes(types []dayfly.EventType) error {
	for _, t := range types {
		if err := oneOf("type", t, dayfly.EventTypes()...); err != nil {
			return err
		}
	}
	return nil
}

// GetWebhook answers GET /v1/webhooks/{webhook}.
func (s routes) GetWebhook(w http.ResponseWriter, r *http.Request, id WebhookID) {
	s.withWebhooks(w, r, func(h Webhooks) error {
		hook, err := h.Webhook(r.Context(), id)
		if err == nil {
			hook.Secret = ""
			s.reply(w, r, http.StatusOK, hook)
		}
		return err
	})
}

// UpdateWebhook answers PATCH /v1/webhooks/{webhook}.
func (s routes) UpdateWebhook(w http.ResponseWriter, r *http.Request, id WebhookID) {
	s.withWebhooks(w, r, func(h Webhooks) error {
		exchangeOf(r).target = clip(id)
		var body UpdateWebhook
		if err := readJSON(w, r, &body); err != nil {
			return err
		}
		hook, err := h.Webhook(r.Context(), id)
		if err != nil {
			return err
		}
		if body.Url != nil {
			hook.URL = *body.Url
		}
		if body.Types != nil {
			hook.Types = *body.Types
		}
		if body.Active != nil {
			hook.Active = *body.Active
		}
		if err := checkWebhook(hook); err != nil {
			return err
		}
		if hook, err = h.UpdateWebhook(r.Context(), hook); err == nil {
			hook.Secret = ""
			s.reply(w, r, http.StatusOK, hook)
		}
		return err
	})
}

// DeleteWebhook answers DELETE /v1/webhooks/{webhook}.
func (s routes) DeleteWebhook(w http.ResponseWriter, r *http.Request, id WebhookID) {
	s.withWebhooks(w, r, func(h Webhooks) error {
		exchangeOf(r).target = clip(id)
		err := h.DeleteWebhook(r.Context(), id)
		if err == nil {
			noContent(w)
		}
		return err
	})
}

// ListDeliveries answers GET /v1/webhooks/{webhook}/deliveries.
func (s routes) ListDeliveries(w http.ResponseWriter, r *http.Request, id WebhookID) {
	s.withWebhooks(w, r, func(h Webhooks) error {
		list, err := h.Deliveries(r.Context(), id)
		if err == nil {
			s.reply(w, r, http.StatusOK, DeliveryList{Deliveries: orEmpty(list)})
		}
		return err
	})
}

func (s *Server) withWebhooks(w http.ResponseWriter, r *http.Request, do func(Webhooks) error) {
	s.try(w, r, s.o.Webhooks != nil, errNoWebhooks, func() error { return do(s.o.Webhooks) })
}
