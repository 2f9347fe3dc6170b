package main

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly/dayfly/undo"
)

// sleeper is a workspace of one size that is resumed, photographed and paused in
// every sample, so that of all sizes one is awake at a time.
type sleeper struct {
	server *server
	mib    int
	ws     *workspace // paused; nil: to be made
}

// pauses are workspaces of all sizes, in turn.
func pauses(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	s, err := newServer(ctx, b, 0, back)
	if err != nil {
		return nil, err
	}
	var list []subject
	for _, mib := range sizes {
		sl := &sleeper{server: s, mib: mib}
		list = append(list, subject{sizedName("pause", mib), sl.series(), 1, sl.once})
	}
	return list, nil
}

func (s *sleeper) series() (names []string) {
	for _, kind := range []string{"resume", "resume-exec", "snapshot-stood", "snapshot", "pause"} {
		names = append(names, sizedName(kind, s.mib))
	}
	return names
}

// once goes through a life. After an error another workspace takes this one's place.
func (s *sleeper) once(ctx context.Context) (n notes, err error) {
	n = notes{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.bury(context.WithoutCancel(ctx)))
		}
	}()
	for _, step := range []func(context.Context, notes) error{s.ready, s.resume, s.snapshot, s.pause} {
		if err := step(ctx, n); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// ready makes the workspace if there is none, or one that has served its time.
func (s *sleeper) ready(ctx context.Context, _ notes) (err error) {
	if s.ws != nil && s.ws.copies < maxCopies {
		s.ws.copies++
		return nil
	}
	if err := s.bury(ctx); err != nil {
		return err
	}
	if s.ws, err = s.server.busyWorkspace(ctx, s.mib); err != nil {
		return err
	}
	_, err = s.server.Workspaces.Pause(ctx, s.ws.id)
	return err
}

func (s *sleeper) bury(ctx context.Context) error {
	if s.ws == nil {
		return nil
	}
	id := s.ws.id
	s.ws = nil
	return s.server.Workspaces.Delete(ctx, id)
}

func (s *sleeper) note(n notes, kind string, v float64) {
	name := sizedName(kind, s.mib)
	n[name] = append(n[name], v)
}

func (s *sleeper) resume(ctx context.Context, n notes) error {
	began := time.Now()
	if _, err := s.server.Workspaces.Resume(ctx, s.ws.id); err != nil {
		return err
	}
	s.note(n, "resume", ms(time.Since(began)))
	at, err := s.server.echo(ctx, s.ws.id)
	if err != nil {
		return err
	}
	s.note(n, "resume-exec", ms(at.Sub(began)))
	return s.ws.goesOn(ctx, s.ws.id)
}

func (s *sleeper) snapshot(ctx context.Context, n notes) error {
	began := time.Now()
	sn, err := s.server.Snapshots.Create(ctx, s.ws.id, "")
	if err != nil {
		return err
	}
	s.note(n, "snapshot", ms(time.Since(began)))
	s.note(n, "snapshot-stood", sn.PausedMS)
	return s.server.Snapshots.Delete(ctx, string(sn.ID))
}

func (s *sleeper) pause(ctx context.Context, n notes) error {
	began := time.Now()
	_, err := s.server.Workspaces.Pause(ctx, s.ws.id)
	s.note(n, "pause", ms(time.Since(began)))
	return err
}
