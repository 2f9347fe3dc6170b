package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// abandonTimeout bounds the deletion of a workspace whose caller left just as
// its start succeeded.
const abandonTimeout = time.Minute

// CreateWorkspace answers POST /v1/workspaces.
func (s routes) CreateWorkspace(w http.ResponseWriter, r *http.Request, p CreateWorkspaceParams) {
	ws, err := s.create(w, r, p)
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case p.Wait != dayfly.WaitCreated && unheard(r, p.IdempotencyKey) != nil:
		s.abandon(r.Context(), ws.ID)
		s.refuse(w, r, unheard(r, p.IdempotencyKey))
	default:
		w.Header().Set("Location", "/v1/workspaces/"+string(ws.ID))
		s.started(w, r, http.StatusCreated, ws)
	}
}

func (s routes) create(w http.ResponseWriter, r *http.Request, p CreateWorkspaceParams) (dayfly.Workspace, error) {
	var none dayfly.Workspace
	if p.Wait == "" {
		p.Wait = dayfly.WaitReady
	}
	var spec dayfly.Spec
	err := errors.Join(
		oneOf("wait", p.Wait, dayfly.WaitReady, dayfly.WaitCreated),
		checkOnce(p.IdempotencyKey, len(r.Header.Values("Idempotency-Key"))),
	)
	if err != nil {
		return none, err
	}
	if err := readJSON(w, r, &spec); err != nil {
		return none, err
	}
	if _, err := spec.Normal(); err != nil {
		return none, err
	}
	return s.o.Workspaces.Create(r.Context(), spec, dayfly.CreateOptions{Wait: p.Wait, Once: p.IdempotencyKey})
}

// oneOf refuses a value that is none of those there are.
func oneOf[T ~string](name string, v T, known ...T) error {
	if slices.Contains(known, v) {
		return nil
	}
	var names []string
	for _, k := range known {
		names = append(names, string(k))
	}
	return dayfly.Errorf(dayfly.Invalid, "%s is %q: use %s", name, v, strings.Join(names, ", "))
}

// unheard is the error of a caller who will not learn what was made for it, as it
// has left or its key was revoked, and has no idempotency key to ask again with.
func unheard(r *http.Request, key string) error {
	if key != "" {
		return nil
	}
	return r.Context().Err()
}

// abandon deletes a workspace nobody learned the id of.
func (s *Server) abandon(ctx context.Context, id dayfly.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	if err := s.o.Workspaces.Delete(ctx, id); err != nil {
		s.log.ErrorContext(ctx, "abandoned workspace not deleted", "workspace", id, "err", err)
	}
	s.guests.forget(id)
}

func (s *Server) started(w http.ResponseWriter, r *http.Request, status int, ws dayfly.Workspace) {
	exchangeOf(r).target = string(ws.ID)
	w.Header().Set("Server-Timing", serverTiming(ws))
	s.reply(w, r, status, ws)
}

// ListWorkspaces answers GET /v1/workspaces.
func (s routes) ListWorkspaces(w http.ResponseWriter, r *http.Request, p ListWorkspacesParams) {
	q, err := queryOf(r.Context(), p)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	page, err := s.o.Workspaces.List(r.Context(), q)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	page.Workspaces = orEmpty(page.Workspaces)
	s.reply(w, r, http.StatusOK, page)
}

// Bounds on what a list is asked for.
const (
	maxCursor    = 1 << 10
	maxSelectors = 64
)

func queryOf(ctx context.Context, p ListWorkspacesParams) (dayfly.Query, error) {
	q := dayfly.Query{States: p.State, Name: p.Name, Image: p.Image, Order: p.Order, Cursor: p.Cursor, Metadata: map[string]string{}}
	var err error
	if q.Namespace, err = within(ctx, p.Namespace); err != nil {
		return q, err
	}
	if q.Limit, err = limitOf(p.Limit); err != nil {
		return q, err
	}
	if q.Order == "" {
		q.Order = dayfly.NewestFirst
	}
	if err := oneOf("order", q.Order, dayfly.NewestFirst, dayfly.OldestFirst, dayfly.ByName); err != nil {
		return q, err
	}
	if len(p.Cursor) > maxCursor || len(p.State)+len(p.Metadata) > maxSelectors {
		return q, dayfly.Errorf(dayfly.Invalid, "list: the cursor is too long, or more than %d states and metadata are named", maxSelectors)
	}
	for _, st := range p.State {
		if err := oneOf("state", st, dayfly.States()...); err != nil {
			return q, err
		}
	}
	for _, kv := range p.Metadata {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return q, dayfly.Errorf(dayfly.Invalid, "metadata is %q: use key=value", kv)
		}
		q.Metadata[k] = v
	}
	return q, nil
}

func limitOf(limit *int) (int, error) {
	switch {
	case limit == nil:
		return dayfly.DefaultPage, nil
	case *limit < 1 || *limit > dayfly.MaxPage:
		return 0, dayfly.Errorf(dayfly.Invalid, "limit is %d: use 1 to %d", *limit, dayfly.MaxPage)
	}
	return *limit, nil
}

// orEmpty makes a list that is [] in JSON, never null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// GetWorkspace answers GET /v1/workspaces/{id}.
func (s routes) GetWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		ws, err := s.o.Workspaces.Get(r.Context(), id)
		if err == nil {
			s.reply(w, r, http.StatusOK, ws)
		}
		return err
	})
}

// DeleteWorkspace answers DELETE /v1/workspaces/{id}.
func (s routes) DeleteWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		// A caller that leaves does not stop a deletion half-way.
		err := s.o.Workspaces.Delete(context.WithoutCancel(r.Context()), id)
		s.guests.forget(id)
		if err == nil {
			noContent(w)
		}
		return err
	})
}

// turn is a change of a workspace's state.
type turn struct {
	do     func(context.Context, dayfly.ID) (dayfly.Workspace, error)
	goesOn bool // without its caller: it must not end half-way
	severs bool // connections to the guest end with it
	starts bool // the answer has the stages of a start
}

func (s *Server) turn(w http.ResponseWriter, r *http.Request, id WorkspaceID, t turn) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		ctx := r.Context()
		if t.goesOn {
			ctx = context.WithoutCancel(ctx)
		}
		ws, err := t.do(ctx, id)
		if t.severs {
			s.guests.forget(id)
		}
		switch {
		case err != nil:
			return err
		case t.starts:
			s.started(w, r, http.StatusOK, ws)
		default:
			s.reply(w, r, http.StatusOK, ws)
		}
		return nil
	})
}

// StartWorkspace answers POST /v1/workspaces/{id}/start.
func (s routes) StartWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.turn(w, r, id, turn{do: s.o.Workspaces.Start, starts: true})
}

// StopWorkspace answers POST /v1/workspaces/{id}/stop.
func (s routes) StopWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.turn(w, r, id, turn{do: s.o.Workspaces.Stop, goesOn: true, severs: true})
}

// RestartWorkspace answers POST /v1/workspaces/{id}/restart.
func (s routes) RestartWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.turn(w, r, id, turn{do: s.o.Workspaces.Restart, goesOn: true, severs: true, starts: true})
}

// UpdateWorkspace answers PATCH /v1/workspaces/{id}.
func (s routes) UpdateWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		var u dayfly.Update
		if err := readJSON(w, r, &u); err != nil {
			return err
		}
		ws, err := s.o.Workspaces.Update(context.WithoutCancel(r.Context()), id, u)
		if err == nil {
			s.reply(w, r, http.StatusOK, ws)
		}
		return err
	})
}

// KeepAliveWorkspace answers POST /v1/workspaces/{id}/keepalive.
func (s routes) KeepAliveWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		var body KeepAlive
		if err := readOptionalJSON(w, r, &body); err != nil {
			return err
		}
		if body.TimeoutS != nil && *body.TimeoutS < 0 {
			return dayfly.Errorf(dayfly.Invalid, "timeout is %d s: use 0 for none or a positive number", *body.TimeoutS)
		}
		ws, err := s.o.Workspaces.KeepAlive(r.Context(), id, body.TimeoutS)
		if err == nil {
			s.reply(w, r, http.StatusOK, ws)
		}
		return err
	})
}

// withID answers r with do's error, if there is a workspace that its path names.
func (s *Server) withID(w http.ResponseWriter, r *http.Request, ref string, do func(dayfly.ID) error) {
	id, err := s.resolve(r, ref)
	if err == nil {
		err = do(id)
	}
	if err != nil {
		s.refuse(w, r, err)
	}
}

// resolve finds the workspace that a path names. It is asked for even for an id:
// connections to a guest are shared by callers, so that nothing later on may be
// the first to see that a caller must not know the workspace.
func (s *Server) resolve(r *http.Request, ref string) (dayfly.ID, error) {
	x := exchangeOf(r)
	x.target = clip(ref)
	id, err := s.o.Workspaces.Resolve(r.Context(), ref)
	if err == nil {
		x.target = string(id)
	}
	return id, err
}

// resolveParent is resolve for a workspace of which something is made. With an
// idempotency key an id may be that of one which is gone since: whoever has made
// something of it before is told of that again.
func (s *Server) resolveParent(r *http.Request, ref, key string) (dayfly.ID, error) {
	id, err := s.resolve(r, ref)
	if gone, wrong := dayfly.ParseID(ref); key != "" && wrong == nil && dayfly.KindOf(err) == dayfly.NotFound {
		return gone, nil
	}
	return id, err
}

// clip bounds what is noted of a caller's own words.
func clip(s string) string { return s[:min(len(s), maxOnce)] }
