package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// launches is the part of a start on which the jail acts: from the wish for a
// machine to a VMM that has opened all its files and lets the CPUs go. What the
// guest then does is the same, takes fifty times as long, and varies by more than
// the jail costs.
type launches struct {
	*bare
	cells *cell.Block
	odd   bool // which of a pair goes first
}

const (
	launchPairs = 10 // in every sample: a pair takes less than half a second
	jailsAhead  = 2  // as in a server
)

func newLaunches(ctx context.Context, b bed, back *undo.Stack) (_ *launches, err error) {
	l := &launches{}
	if l.bare, err = newBare(ctx, b, back); err != nil {
		return nil, err
	}
	for _, name := range []string{"root", "disk"} { // as many as a workspace has
		path := filepath.Join(l.config.Dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, usualDisk<<20)); err != nil {
			return nil, err
		}
		l.config.Drives = append(l.config.Drives, vmm.Drive{Path: path, ReadOnly: name == "root"})
	}
	self, err := filepath.Abs(b.dayfly)
	if err != nil {
		return nil, err
	}
	if l.cells, err = cell.Open(ctx, jail.Options{Self: self}); err != nil {
		return nil, err
	}
	back.Push("jails", func(context.Context) error { return l.cells.Close() })
	program, err := l.driver.(vmm.Programmed).Program(l.config.Accel)
	if err != nil {
		return nil, err
	}
	l.cells.Prepare(program, jailsAhead)
	return l, nil
}

// once launches in turn with a jail and without. No launch is beside the making
// of the next jail.
func (l *launches) once(ctx context.Context) (notes, error) {
	n := notes{}
	for range launchPairs {
		l.odd = !l.odd
		for _, jailed := range []bool{l.odd, !l.odd} {
			took, err := l.launch(ctx, jailed)
			if err != nil {
				return nil, err
			}
			name := launchName(jailed)
			n[name] = append(n[name], ms(took))
		}
	}
	return n, nil
}

func launchName(jailed bool) string {
	if jailed {
		return "launch-jail"
	}
	return "launch-bare"
}

func (l *launches) launch(ctx context.Context, jailed bool) (time.Duration, error) {
	if err := l.awaitJails(ctx); err != nil {
		return 0, err
	}
	c := l.config
	if jailed {
		c.Spawner = l.cells.Cell(jail.Limits{Memory: int64(2*c.MemoryMiB) << 20})
	}
	began := time.Now()
	m, err := l.driver.Launch(ctx, c)
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took, m.Close()
}

// awaitJails polls: the jails are made on a thread of their own.
func (l *launches) awaitJails(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	const look = 2 * time.Millisecond
	for l.cells.Waiting() < jailsAhead {
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
