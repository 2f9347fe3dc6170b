package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
)

// abandonTimeout bounds the deletion of a workspace whose caller left just as
// its start succeeded.
const abandonTimeout = time.Minute

// CreateWorkspace answers POST /v1/workspaces.
func (s routes) CreateWorkspace(w http.ResponseWriter, r *http.Request) {
	var spec dayfly.Spec
	if err := readJSON(w, r, &spec); err != nil {
		s.refuse(w, r, err)
		return
	}
	if _, err := spec.Normal(); err != nil {
		s.refuse(w, r, err)
		return
	}
	ws, err := s.o.Workspaces.Create(r.Context(), spec)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if r.Context().Err() != nil {
		s.abandon(r.Context(), ws.ID)
		return
	}
	s.started(w, r, http.StatusCreated, ws)
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
	w.Header().Set("Server-Timing", serverTiming(ws))
	s.reply(w, r, status, ws)
}

// ListWorkspaces answers GET /v1/workspaces.
func (s routes) ListWorkspaces(w http.ResponseWriter, r *http.Request) {
	list, err := s.o.Workspaces.List(r.Context())
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	slices.SortStableFunc(list, func(a, b dayfly.Workspace) int { return b.CreatedAt.Compare(a.CreatedAt) })
	s.reply(w, r, http.StatusOK, WorkspaceList{Workspaces: orEmpty(list)})
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
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	})
}

// StartWorkspace answers POST /v1/workspaces/{id}/start.
func (s routes) StartWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		ws, err := s.o.Workspaces.Start(r.Context(), id)
		if err == nil {
			s.started(w, r, http.StatusOK, ws)
		}
		return err
	})
}

// StopWorkspace answers POST /v1/workspaces/{id}/stop.
func (s routes) StopWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		ws, err := s.o.Workspaces.Stop(context.WithoutCancel(r.Context()), id)
		s.guests.forget(id)
		if err == nil {
			s.reply(w, r, http.StatusOK, ws)
		}
		return err
	})
}

// withID answers r with do's error, if the id in its path is one.
func (s *Server) withID(w http.ResponseWriter, r *http.Request, raw string, do func(dayfly.ID) error) {
	id, err := dayfly.ParseID(raw)
	if err == nil {
		err = do(id)
	}
	if err != nil {
		s.refuse(w, r, err)
	}
}
