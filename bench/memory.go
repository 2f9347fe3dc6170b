package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/undo"
)

// idleTime is how long clones are left alone before their memory is read.
const idleTime = 3 * time.Second

// memories is the memory of clones that idle: every clone is a sample.
func memories(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	s, err := newServer(ctx, b, 0, back)
	if err != nil {
		return nil, err
	}
	return []subject{
		{"memory of restored workspaces", crowdNames("restore"), 0, s.restoredMemory},
		{"memory of forks", crowdNames("fork"), 0, s.forkedMemory},
	}, nil
}

func crowdNames(kind string) (names []string) {
	for _, n := range crowds {
		names = append(names, crowdName("pss."+kind, n), crowdName("over."+kind, n))
	}
	return names
}

// restoredMemory restores one workspace after the other from the template of
// their image, and reads when there are as many as are asked for.
func (s *server) restoredMemory(ctx context.Context) (n notes, err error) {
	n = notes{}
	var list []dayfly.Workspace
	defer func() { err = errors.Join(err, s.deleteAll(context.WithoutCancel(ctx), list)) }()
	spec := dayfly.Spec{Image: s.bed.image, DiskMiB: usualDisk, Accel: dayfly.Accel(s.bed.accel)}
	if err := s.makeTemplate(ctx, spec); err != nil {
		return nil, err
	}
	for _, count := range crowds {
		for len(list) < count {
			ws, err := s.Workspaces.Create(ctx, spec)
			if err != nil {
				return nil, err
			}
			list = append(list, ws)
			if ws.StartKind != dayfly.Restore || !wasPrepared(ws.Timeline) {
				return nil, fmt.Errorf("it was a %s start, not from the image's template: %s", ws.StartKind, ws.StartNote)
			}
			if _, err := s.echo(ctx, ws.ID); err != nil {
				return nil, err
			}
		}
		if err := s.noteMemory(ctx, n, "restore", list); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// makeTemplate starts what begins from a template of its own from then on.
func (s *server) makeTemplate(ctx context.Context, spec dayfly.Spec) error {
	for range prime {
		ws, err := s.Workspaces.Create(ctx, spec)
		if err != nil {
			return err
		}
		if err := s.Workspaces.Delete(ctx, ws.ID); err != nil {
			return err
		}
	}
	return nil
}

// forkedMemory forks a workspace in which a Python process runs, into as many
// at once as are asked for.
func (s *server) forkedMemory(ctx context.Context) (n notes, err error) {
	n = notes{}
	ws, err := s.busyWorkspace(ctx, dayfly.DefaultMemoryMiB)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Workspaces.Delete(context.WithoutCancel(ctx), ws.id)) }()
	for _, count := range crowds {
		if err := s.forkMemory(ctx, n, ws.id, count); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (s *server) forkMemory(ctx context.Context, n notes, id dayfly.ID, count int) (err error) {
	list, err := s.Workspaces.Fork(ctx, id, count)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.deleteAll(context.WithoutCancel(ctx), list)) }()
	if err := each(list, func(_ int, id dayfly.ID) error { _, err := s.echo(ctx, id); return err }); err != nil {
		return err
	}
	return s.noteMemory(ctx, n, "fork", list)
}

// noteMemory reads the memory of all clones, one after the other, while they idle.
func (s *server) noteMemory(ctx context.Context, n notes, kind string, list []dayfly.Workspace) error {
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	pss, over := crowdName("pss."+kind, len(list)), crowdName("over."+kind, len(list))
	for _, ws := range list {
		u, err := s.usage(ctx, ws.ID)
		if err != nil {
			return err
		}
		n[pss] = append(n[pss], mib(u.pss))
		n[over] = append(n[over], mib(u.pss-u.written))
	}
	return nil
}

func mib(kib int64) float64 { return float64(kib) / 1024 }
