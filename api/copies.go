package api

import (
	"context"
	"net/http"

	"github.com/dayfly/dayfly"
)

// PauseWorkspace answers POST /v1/workspaces/{id}/pause.
func (s routes) PauseWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.turn(w, r, id, turn{do: s.o.Workspaces.Pause, goesOn: true, severs: true})
}

// ResumeWorkspace answers POST /v1/workspaces/{id}/resume.
func (s routes) ResumeWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.turn(w, r, id, turn{do: s.o.Workspaces.Resume, starts: true})
}

// RollbackWorkspace answers POST /v1/workspaces/{id}/rollback.
func (s routes) RollbackWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.withID(w, r, id, func(id dayfly.ID) error {
		var body RollbackWorkspace
		if err := readJSON(w, r, &body); err != nil {
			return err
		}
		if body.Snapshot == "" {
			return dayfly.Errorf(dayfly.Invalid, "snapshot is empty: name one of this workspace (see: dayfly snapshot ls --workspace %s)", id)
		}
		// What it was is given up for what it will be: a caller that leaves
		// does not stop that half-way.
		ws, err := s.o.Workspaces.Rollback(context.WithoutCancel(r.Context()), id, body.Snapshot)
		s.guests.forget(id)
		if err == nil {
			s.started(w, r, http.StatusOK, ws)
		}
		return err
	})
}

// ForkWorkspace answers POST /v1/workspaces/{id}/fork.
func (s routes) ForkWorkspace(w http.ResponseWriter, r *http.Request, id WorkspaceID, p ForkWorkspaceParams) {
	copies, err := s.fork(w, r, id, p)
	if err == nil {
		if err = unheard(r, p.IdempotencyKey); err != nil {
			for _, ws := range copies {
				s.abandon(r.Context(), ws.ID)
			}
		}
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.reply(w, r, http.StatusCreated, dayfly.Page{Workspaces: orEmpty(copies)})
}

func (s routes) fork(w http.ResponseWriter, r *http.Request, ref WorkspaceID, p ForkWorkspaceParams) ([]dayfly.Workspace, error) {
	id, err := s.resolveParent(r, ref, p.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	var body ForkWorkspace
	if err := readOptionalJSON(w, r, &body); err != nil {
		return nil, err
	}
	count := 1
	if body.Count != nil {
		count = *body.Count
	}
	if count < 1 || count > dayfly.MaxFork {
		return nil, dayfly.Errorf(dayfly.Invalid, "count is %d: use 1 to %d", count, dayfly.MaxFork)
	}
	ctx, err := once(r, p.IdempotencyKey)
	if err != nil {
		return nil, err
	}
	return s.o.Workspaces.Fork(ctx, id, count)
}
