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
// machine to a VMM that has opened all its files and lets the CPUs go. The machine
// is a tiny one that never boots: what a guest does is the same with a jail and
// without, takes many times as long, and varies by more than the jail costs.
type launches struct {
	driver vmm.Driver
	config vmm.Config
	cells  *cell.Block
	odd    bool // which of a pair goes first
}

const (
	launchPairs  = 10  // in every sample: a pair takes less than half a second
	launchMemory = 128 // MiB
	jailsAhead   = 2   // as in a server
)

func newLaunches(ctx context.Context, b bed, back *undo.Stack) (*launches, error) {
	usual, err := newBare(ctx, b, back)
	if err != nil {
		return nil, err
	}
	l := &launches{driver: usual.driver, config: usual.config}
	if err := l.tiny(); err != nil {
		return nil, err
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

// tiny makes a machine with a kernel that halts, and as many drives as a
// workspace has.
func (l *launches) tiny() error {
	dir, c := l.config.Dir, &l.config
	c.MemoryMiB, c.Cmdline = launchMemory, nil
	c.Kernel, c.Initramfs = filepath.Join(dir, "kernel"), filepath.Join(dir, "initramfs")
	err := errors.Join(os.WriteFile(c.Kernel, idleELF(), 0o600), os.WriteFile(c.Initramfs, []byte("none"), 0o600))
	for _, name := range []string{"root", "disk"} {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, nil, 0o600), os.Truncate(path, usualDisk<<20))
		c.Drives = append(c.Drives, vmm.Drive{Path: path, ReadOnly: name == "root"})
	}
	return err
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
		c.Spawner = l.cells.Cell(jail.Limits{Memory: int64(c.MemoryMiB+launchMemory) << 20})
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
