package fakehost

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
)

// AdminKey is an API key of an admin of every fake host.
const AdminKey = "dfk_admin_secret"

// server is what a server has beyond a host: keys, namespaces and news.
type server struct {
	sv *state
}

type state struct {
	mu         sync.Mutex
	keys       []*key
	namespaces map[string]dayfly.Namespace
	events     []dayfly.Event
	rung       chan struct{} // closed at the next event
	hooks      []dayfly.Webhook
	audit      []dayfly.AuditEntry
	once       map[string]dayfly.ID
	onces      []string
}

type key struct {
	dayfly.Key
	secret    string
	workspace dayfly.ID // of a token
	revoked   chan struct{}
}

func newServer() server {
	s := server{&state{
		namespaces: map[string]dayfly.Namespace{dayfly.DefaultNamespace: {Name: dayfly.DefaultNamespace}},
		rung:       make(chan struct{}), once: map[string]dayfly.ID{},
	}}
	s.sv.keys = append(s.sv.keys, &key{Key: dayfly.Key{ID: "admin", Name: "admin"}, secret: AdminKey, revoked: make(chan struct{})})
	return s
}

// ServerOptions is a server that asks for keys, with all that servers have.
func (h *Host) ServerOptions() api.Options {
	o := h.Options()
	o.Auth, o.Keys, o.Namespaces, o.Events, o.Webhooks, o.Audit, o.Logs, o.Meter, o.Health = h, h, h, h, h, h, h, h, h
	return o
}

func selects(q dayfly.Query, ws dayfly.Workspace) bool {
	for k, v := range q.Metadata {
		if ws.Spec.Metadata[k] != v {
			return false
		}
	}
	return (q.Namespace == "" || q.Namespace == ws.Namespace) && (len(q.States) == 0 || slices.Contains(q.States, ws.State)) &&
		(q.Name == "" || q.Name == ws.Name) && (q.Image == "" || q.Image == ws.Spec.Image)
}

// page sorts a list and cuts a page out of it. Its cursor is a number, so that
// pages do not stay whole while workspaces come and go.
func page(q dayfly.Query, list []dayfly.Workspace) dayfly.Page {
	slices.SortFunc(list, func(a, b dayfly.Workspace) int {
		switch q.Order {
		case dayfly.OldestFirst:
			return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		case dayfly.ByName:
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
		}
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	from, _ := strconv.Atoi(q.Cursor)
	list = list[min(max(from, 0), len(list)):]
	limit := cmp.Or(q.Limit, dayfly.DefaultPage)
	if len(list) <= limit {
		return dayfly.Page{Workspaces: list}
	}
	return dayfly.Page{Workspaces: list[:limit], Next: strconv.Itoa(from + limit)}
}

// minPrefix is the least of an id that stands for it.
const minPrefix = 4

// Resolve finds a workspace by its id, name, or the beginning of its id.
func (h *Host) Resolve(ctx context.Context, ref string) (dayfly.ID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []dayfly.ID
	for id, w := range h.of {
		switch {
		case !dayfly.CallerOf(ctx).Sees(w.Workspace):
		case string(id) == ref:
			return id, nil
		case w.Name == ref, len(ref) >= minPrefix && strings.HasPrefix(string(id), ref):
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", ref)
	case 1:
		return found[0], nil
	}
	return "", dayfly.Errorf(dayfly.Conflict, "%s may be any of %v: write more of the id", ref, found)
}

// Restart stops and starts a workspace.
func (h *Host) Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	if _, err := h.Stop(ctx, id); err != nil {
		return dayfly.Workspace{}, err
	}
	return h.Start(ctx, id)
}

// Update sets what u names.
func (h *Host) Update(ctx context.Context, id dayfly.ID, u dayfly.Update) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	spec, err := u.Of(w.Spec).Normal()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	w.Spec, w.Name = spec, spec.Name
	h.tell(ctx, dayfly.WorkspaceUpdated, w.Workspace)
	return w.Workspace, nil
}

// KeepAlive moves the end of a workspace, which it does not carry out.
func (h *Host) KeepAlive(ctx context.Context, id dayfly.ID, timeout *int) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	now := time.Now().UTC()
	w.UsedAt, w.ExpiresAt = &now, nil
	seconds := w.Spec.Timeout
	if timeout != nil {
		seconds = *timeout
	}
	if seconds > 0 {
		end := now.Add(time.Duration(seconds) * time.Second)
		w.ExpiresAt = &end
	}
	return w.Workspace, nil
}

func (s server) once(ctx context.Context, name string) (dayfly.ID, bool) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	id, ok := s.sv.once[dayfly.CallerOf(ctx).Home()+"/"+name]
	return id, ok && name != ""
}

func (s server) made(ctx context.Context, once string, ws dayfly.Workspace) {
	s.tell(ctx, dayfly.WorkspaceCreated, ws)
	s.tell(ctx, dayfly.WorkspaceRunning, ws)
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	if once != "" {
		s.sv.once[ws.Namespace+"/"+once] = ws.ID
	}
}

// note keeps the idempotency key of a creation that is not of a workspace.
func (s server) note(ctx context.Context) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	s.sv.onces = append(s.sv.onces, dayfly.CallerOf(ctx).Once)
}

// Onces returns the idempotency keys that forks, snapshots, keys, namespaces and
// webhooks were asked for with, in their order. None of them is done once here.
func (h *Host) Onces() []string {
	h.sv.mu.Lock()
	defer h.sv.mu.Unlock()
	return slices.Clone(h.sv.onces)
}

// tell adds an event.
func (s server) tell(ctx context.Context, what dayfly.EventType, ws dayfly.Workspace) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	seq := int64(len(s.sv.events) + 1)
	s.sv.events = append(s.sv.events, dayfly.Event{
		Seq: seq, ID: "e" + strconv.FormatInt(seq, 10), Type: what, At: time.Now().UTC(), Namespace: ws.Namespace,
		Workspace: ws.ID, State: ws.State, Actor: dayfly.CallerOf(ctx).Key,
	})
	close(s.sv.rung)
	s.sv.rung = make(chan struct{})
}

// Events returns what happened.
func (s server) Events(ctx context.Context, q dayfly.EventQuery) ([]dayfly.Event, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	c := dayfly.CallerOf(ctx)
	var list []dayfly.Event
	for _, e := range s.sv.events {
		switch {
		case e.Seq <= q.After, q.Namespace != "" && q.Namespace != e.Namespace, q.Workspace != "" && q.Workspace != e.Workspace:
		case len(q.Types) > 0 && !slices.Contains(q.Types, e.Type), c.Bound && c.Namespace != e.Namespace:
		case len(list) < cmp.Or(q.Limit, dayfly.DefaultPage):
			list = append(list, e)
		}
	}
	return list, nil
}

// LastEvent is that of any namespace.
func (s server) LastEvent(context.Context) (int64, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	return int64(len(s.sv.events)), nil
}

// AwaitEvent waits for an event, of any namespace.
func (s server) AwaitEvent(ctx context.Context, after int64) error {
	s.sv.mu.Lock()
	rung, last := s.sv.rung, int64(len(s.sv.events))
	s.sv.mu.Unlock()
	if last > after {
		return nil
	}
	select {
	case <-rung:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CreateWebhook keeps a webhook, which nothing is sent to.
func (s server) CreateWebhook(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error) {
	s.note(ctx)
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	w.ID, w.Secret, w.CreatedAt = "h"+strconv.Itoa(len(s.sv.hooks)+1), "whsec_c2VjcmV0", time.Now().UTC()
	s.sv.hooks = append(s.sv.hooks, w)
	return w, nil
}

// Webhooks returns all webhooks.
func (s server) Webhooks(context.Context) ([]dayfly.Webhook, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	return slices.Clone(s.sv.hooks), nil
}

// Webhook returns one webhook.
func (s server) Webhook(_ context.Context, id string) (dayfly.Webhook, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	for _, w := range s.sv.hooks {
		if w.ID == id {
			return w, nil
		}
	}
	return dayfly.Webhook{}, dayfly.Errorf(dayfly.NotFound, "there is no webhook %s", id)
}

// UpdateWebhook sets a webhook.
func (s server) UpdateWebhook(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error) {
	if _, err := s.Webhook(ctx, w.ID); err != nil {
		return w, err
	}
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	for i := range s.sv.hooks {
		if s.sv.hooks[i].ID == w.ID {
			s.sv.hooks[i] = w
		}
	}
	return w, nil
}

// DeleteWebhook forgets a webhook.
func (s server) DeleteWebhook(ctx context.Context, id string) error {
	if _, err := s.Webhook(ctx, id); err != nil {
		return err
	}
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	s.sv.hooks = slices.DeleteFunc(s.sv.hooks, func(w dayfly.Webhook) bool { return w.ID == id })
	return nil
}

// Deliveries has one that was given up.
func (s server) Deliveries(ctx context.Context, id string) ([]dayfly.Delivery, error) {
	if _, err := s.Webhook(ctx, id); err != nil {
		return nil, err
	}
	return []dayfly.Delivery{{Webhook: id, Attempts: 3, Status: 500, Event: dayfly.Event{Seq: 1, ID: "e1", Type: dayfly.WorkspaceCreated, State: dayfly.Creating}}}, nil
}

// AddAudit keeps an entry.
func (s server) AddAudit(_ context.Context, e dayfly.AuditEntry) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	e.Seq = int64(len(s.sv.audit) + 1)
	s.sv.audit = append(s.sv.audit, e)
}

// Audit returns the entries, newest first.
func (s server) Audit(_ context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	var list []dayfly.AuditEntry
	for _, e := range slices.Backward(s.sv.audit) {
		if (q.Before == 0 || e.Seq < q.Before) && (q.Namespace == "" || q.Namespace == e.Namespace) && len(list) < cmp.Or(q.Limit, dayfly.DefaultPage) {
			list = append(list, e)
		}
	}
	return list, nil
}

// Log is three lines; followed, it goes on until it is closed.
func (h *Host) Log(ctx context.Context, id dayfly.ID, q dayfly.LogQuery) (io.ReadCloser, error) {
	if _, err := h.Get(ctx, id); err != nil {
		return nil, err
	}
	lines := []string{"one\n", "two\n", "three\n"}
	if q.Tail > 0 && q.Tail < len(lines) {
		lines = lines[len(lines)-q.Tail:]
	}
	r, w := io.Pipe()
	go func() {
		for _, l := range lines {
			_, _ = io.WriteString(w, l)
		}
		if !q.Follow {
			_ = w.Close()
		}
	}()
	return r, nil
}

// Metrics are the same for every workspace.
func (h *Host) Metrics(ctx context.Context, id dayfly.ID) (dayfly.Metrics, error) {
	if _, err := h.Get(ctx, id); err != nil {
		return dayfly.Metrics{}, err
	}
	return dayfly.Metrics{At: time.Now().UTC(), CPUs: 1, CPUSeconds: 1.5, MemoryBytes: 512 << 20, MemoryUsed: 64 << 20, UptimeS: 3}, nil
}

// Ready is true.
func (*Host) Ready(context.Context) error { return nil }
