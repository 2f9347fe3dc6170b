package main

import (
	"context"
	"errors"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/undo"
)

// parent is a running workspace that is forked.
type parent struct {
	server *server
	ws     *workspace // nil: to be made
}

// forks are forks of one workspace, into one and into ten.
func forks(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	s, err := newServer(ctx, b, 0, back)
	if err != nil {
		return nil, err
	}
	p := &parent{server: s}
	return []subject{
		timed("fork1", 1, func(ctx context.Context) (time.Duration, error) { return p.once(ctx, 1) }),
		timed("fork10", 1, func(ctx context.Context) (time.Duration, error) { return p.once(ctx, 10) }),
	}, nil
}

// once forks and takes the time until the last of the children has printed
// something.
func (p *parent) once(ctx context.Context, count int) (took time.Duration, err error) {
	if err := p.ready(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	children, err := p.server.Workspaces.Fork(ctx, p.ws.id, count)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.server.deleteAll(context.WithoutCancel(ctx), children)) }()
	arrived := make([]time.Time, count)
	if err := each(children, func(i int, id dayfly.ID) (err error) {
		arrived[i], err = p.server.echo(ctx, id)
		return err
	}); err != nil {
		return 0, err
	}
	for _, at := range arrived {
		took = max(took, at.Sub(began))
	}
	return took, each(children, func(_ int, id dayfly.ID) error { return p.ws.goesOn(ctx, id) })
}

// ready makes the parent if there is none, or one that has served its time.
func (p *parent) ready(ctx context.Context) (err error) {
	if p.ws != nil && p.ws.copies < maxCopies {
		p.ws.copies++
		return nil
	}
	if p.ws != nil {
		if err := p.server.Workspaces.Delete(ctx, p.ws.id); err != nil {
			return err
		}
	}
	p.ws, err = p.server.busyWorkspace(ctx, dayfly.DefaultMemoryMiB)
	return err
}
