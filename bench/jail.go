package main

import (
	"context"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/undo"
)

// jails are starts by two servers in turn, of which one has no jails, and that
// part of a start by itself on which a jail acts. Each server has a bed of its own.
func jails(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	var list []subject
	for _, s := range []struct{ name, jail string }{{"jail-on", "on"}, {"jail-off", "off"}} {
		own, err := newBed(b.options, back)
		if err != nil {
			return nil, err
		}
		own.serve = []string{"--jail", s.jail}
		server, err := newServer(ctx, own, 0, back)
		if err != nil {
			return nil, err
		}
		restore := start{kind: dayfly.Restore, diskMiB: usualDisk, host: server.host}
		if _, err := own.run(ctx, restore); err != nil { // the next one makes the image's template
			return nil, err
		}
		restore.prepared = true
		list = append(list, timed(s.name, prime, func(ctx context.Context) (time.Duration, error) { return own.run(ctx, restore) }))
	}
	l, err := newLaunches(ctx, b, back)
	if err != nil {
		return nil, err
	}
	return append(list, subject{"launch", []string{launchName(true), launchName(false)}, 1, l.once}), nil
}
