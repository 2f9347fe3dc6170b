package node

import (
	"context"
	"path/filepath"
	"time"

	"github.com/dayfly/dayfly"
)

// settle begins to make the files in the workspace's directory durable, while its
// machine starts.
func (s *start) settle() {
	if !s.w.record(*s.ws).kept() {
		return
	}
	done, over := make(chan error, 1), make(chan struct{})
	s.durable = done // what was said of the disk of an earlier machine does not matter any more
	// Nothing is removed under its hands.
	s.back.Push("settle", func(context.Context) error { <-over; return nil })
	go func() {
		defer close(over)
		err := syncAll(s.w.dir)
		if err == nil && s.fresh {
			err = syncPath(filepath.Dir(s.w.dir))
		}
		done <- err
	}()
}

// publish makes the workspace a running one.
func (s *start) publish(ctx context.Context) error {
	if s.durable != nil {
		select {
		case err := <-s.durable:
			if err != nil {
				return noSpace(err)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	ws := *s.ws
	ws.State = dayfly.Running
	s.parts.orphan = s.w.node.Outlive
	had := s.w.parts
	s.w.parts = s.parts
	if err := s.w.record(ws).replace(s.w.dir, s.w.record(s.was)); err != nil {
		s.w.parts = had
		return err
	}
	s.w.machine.Store(&s.parts.machine)
	s.w.session.Store(s.parts.session)
	if t := ws.Spec.Timeout; t > 0 && !s.w.node.Outlive { // else whoever is above has the timers
		s.w.expires = time.After(time.Duration(t) * time.Second)
	}
	s.w.show(ws)
	s.w.node.Log.Info("workspace state", "workspace", s.w.id, "state", ws.State)
	return nil
}
