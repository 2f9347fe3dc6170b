package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/dayfly/dayfly"
)

var errNoSnapshots = lacking("snapshots")

// CreateSnapshot answers POST /v1/workspaces/{id}/snapshots.
func (s routes) CreateSnapshot(w http.ResponseWriter, r *http.Request, id WorkspaceID, p CreateSnapshotParams) {
	s.withSnapshots(w, r, func(sn Snapshots) error {
		id, err := s.resolveParent(r, id, p.IdempotencyKey)
		if err != nil {
			return err
		}
		var body CreateSnapshot
		if err := readOptionalJSON(w, r, &body); err != nil {
			return err
		}
		if err := checkName(body.Name); err != nil {
			return err
		}
		ctx, err := once(r, p.IdempotencyKey)
		if err != nil {
			return err
		}
		snap, err := sn.Snapshot(ctx, id, body.Name)
		if err != nil {
			return err
		}
		if err := unheard(r, p.IdempotencyKey); err != nil {
			s.abandonSnapshot(r.Context(), sn, snap.ID)
			return err
		}
		s.reply(w, r, http.StatusCreated, snap)
		return nil
	})
}

// checkName refuses names that no snapshot can have, and those that a path
// cannot hold.
func checkName(name string) error {
	if name == "." || name == ".." {
		return dayfly.Errorf(dayfly.Invalid, "snapshot name %q means a directory: choose another", name)
	}
	return dayfly.CheckSnapshotName(name)
}

// abandonSnapshot deletes a snapshot nobody learned the id of.
func (s *Server) abandonSnapshot(ctx context.Context, sn Snapshots, id dayfly.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	if err := sn.DeleteSnapshot(ctx, string(id)); err != nil {
		s.log.ErrorContext(ctx, "abandoned snapshot not deleted", "snapshot", id, "err", err)
	}
}

// ListSnapshots answers GET /v1/snapshots.
func (s routes) ListSnapshots(w http.ResponseWriter, r *http.Request, p ListSnapshotsParams) {
	s.withSnapshots(w, r, func(sn Snapshots) error {
		if p.Workspace != "" {
			if _, err := dayfly.ParseID(p.Workspace); err != nil {
				return err
			}
		}
		list, err := sn.Snapshots(r.Context())
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(slices.Clone(list), func(sn dayfly.Snapshot) bool {
			return p.Workspace != "" && string(sn.Workspace) != p.Workspace
		})
		slices.SortStableFunc(list, func(a, b dayfly.Snapshot) int { return b.CreatedAt.Compare(a.CreatedAt) })
		s.reply(w, r, http.StatusOK, SnapshotList{Snapshots: orEmpty(list)})
		return nil
	})
}

// GetSnapshot answers GET /v1/snapshots/{ref}.
func (s routes) GetSnapshot(w http.ResponseWriter, r *http.Request, ref string) {
	s.withSnapshots(w, r, func(sn Snapshots) error {
		snap, err := sn.GetSnapshot(r.Context(), ref)
		if err == nil {
			s.reply(w, r, http.StatusOK, snap)
		}
		return err
	})
}

// DeleteSnapshot answers DELETE /v1/snapshots/{ref}.
func (s routes) DeleteSnapshot(w http.ResponseWriter, r *http.Request, ref string) {
	s.withSnapshots(w, r, func(sn Snapshots) error {
		// A caller that leaves does not stop a deletion half-way.
		exchangeOf(r).target = clip(ref)
		err := sn.DeleteSnapshot(context.WithoutCancel(r.Context()), ref)
		if err == nil {
			noContent(w)
		}
		return err
	})
}

// withSnapshots answers r with do's error, if this server has snapshots.
func (s *Server) withSnapshots(w http.ResponseWriter, r *http.Request, do func(Snapshots) error) {
	err := errNoSnapshots
	if s.o.Snapshots != nil {
		err = do(s.o.Snapshots)
	}
	if err != nil {
		s.refuse(w, r, err)
	}
}
