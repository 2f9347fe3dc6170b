package boot

import (
	"context"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// errEmpty refuses what only a workspace can do.
func errEmpty() error {
	return dayfly.Errorf(dayfly.Conflict, "the machine is no workspace yet: carry out an Init first")
}

// Freeze stops every process of the workspace until Thaw. Repeated, it changes
// nothing; an error leaves none stopped.
func (s *System) Freeze(ctx context.Context) (wire.FreezeReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		return wire.FreezeReply{}, errEmpty()
	}
	s.look()
	n, err := s.groups.freeze(ctx)
	return wire.FreezeReply{Processes: n}, err
}

// Thaw lets the workspace's processes go on.
func (s *System) Thaw(_ context.Context, in wire.Thaw) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Timestamp != "" {
		if _, err := setClock(in.Timestamp, time.Since(s.arrived())); err != nil {
			return err
		}
	}
	return s.groups.thaw()
}
