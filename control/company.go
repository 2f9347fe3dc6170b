package control

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
)

// Companions are what goes on beside a running machine: its main command is
// followed, and whether it is ready is looked after. They end when it no longer
// runs.

// accompany begins them. reopened: the machine ran before this process did.
func (k *keeper) accompany(reopened bool) {
	k.unaccompany()
	ctx, cancel := context.WithCancel(k.c.ended)
	k.companions = cancel
	k.runs++
	k.since = k.c.now()
	if k.hasCommand() {
		k.follow(ctx, k.beginning(reopened))
	}
	switch check := k.rec.Spec.Ready; {
	case k.rec.Ready:
	case len(check.Command) == 0:
		k.becomeReady()
	default:
		run := k.runs
		k.c.tasks.Go(func() {
			err := k.c.untilReady(ctx, k.id, check)
			k.post(func() {
				if k.runs == run && k.companions != nil {
					k.checked(err)
				}
			})
		})
	}
}

func (k *keeper) unaccompany() {
	if k.companions != nil {
		k.companions()
		k.companions = nil
	}
}

func (k *keeper) hasCommand() bool {
	return k.rec.Spec.ImageCommand || len(k.rec.Spec.Command) > 0
}

// beginning says how the main command of a machine that runs from now on begins:
// one that has booted has none yet; a copy, or one that goes on, has it already,
// unless it had ended.
func (k *keeper) beginning(reopened bool) beginning {
	switch {
	case reopened && k.rec.Exit != nil:
		return hasEnded
	case reopened:
		return maybeBegun
	}
	switch k.rec.StartKind {
	case dayfly.Resume, dayfly.Forked:
		if k.rec.Exit != nil {
			return hasEnded
		}
		return goesOn
	case dayfly.FromSnapshot:
		k.rec.Exit = nil // that of another time
		return elseAnew
	}
	k.rec.Exit = nil
	return beginAnew
}

// runCommand begins the main command of the machine that runs.
func (k *keeper) runCommand(how beginning) {
	if k.companions == nil {
		return
	}
	ctx, cancel := context.WithCancel(k.c.ended)
	before := k.companions
	k.companions = func() { cancel(); before() }
	if how == beginAnew {
		k.rec.Exit = nil
	}
	k.follow(ctx, how)
}

// follow sees the main command through its end.
func (k *keeper) follow(ctx context.Context, how beginning) {
	run := k.runs
	m := mainCommand{c: k.c, id: k.id, spec: k.rec.Spec, how: how}
	k.c.tasks.Go(func() {
		for {
			exit, ok := m.run(ctx)
			if !ok {
				return
			}
			heard := make(chan bool, 1)
			posted := k.post(func() {
				switch {
				case k.runs != run || k.companions == nil || k.deletion != nil:
					heard <- true
				case k.op != nil: // which may be what ended it, or fail and leave it running
					heard <- false
				default:
					k.exited(exit)
					heard <- true
				}
			})
			if !posted || <-heard {
				return
			}
			m.how = goesOn
			if !sleep(ctx, time.Second) {
				return
			}
		}
	})
}

// checked takes in the end of the ready check.
func (k *keeper) checked(err error) {
	if err == nil {
		k.becomeReady()
		return
	}
	if k.maker != nil && k.maker.ready {
		k.remove("", err)
		return
	}
	if k.op != nil || k.deletion != nil {
		return
	}
	k.maker = nil
	k.settle(err)
	k.failing = message(err)
	k.operate(k.c.ended, job{
		verb: "stop",
		do:   func(ctx context.Context) (dayfly.Workspace, error) { return k.c.node.Stop(ctx, k.id) },
		done: func(err error) {
			k.failing = ""
			if err != nil {
				k.c.log.Error("stop of a workspace that did not become ready", "workspace", k.id, "err", err)
			}
		},
	})
}

// untilReady runs the check once a second until it succeeds, or its time is up.
func (c *Control) untilReady(ctx context.Context, id dayfly.ID, check dayfly.ReadyCheck) error {
	seconds := check.Timeout
	if seconds == 0 {
		seconds = defaultReady
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer cancel()
	var last attempt
	for {
		began := time.Now()
		try := c.try(ctx, id, check.Command)
		if try.err == nil && try.exit.Code == 0 {
			return nil
		}
		if ctx.Err() == nil || last.err == nil && last.exit == (dayfly.Exit{}) {
			last = try // one that the end of the time cut off says less
		}
		if !sleep(ctx, time.Second-time.Since(began)) {
			break
		}
	}
	said := fmt.Sprintf("exit code %d", last.exit.Code)
	if last.err != nil {
		said = "it could not be run"
	}
	if last.output != "" {
		said += fmt.Sprintf("; the end of its output: %q", last.output)
	}
	return &dayfly.Error{
		Kind: dayfly.Unavailable, Stage: "ready", Err: last.err,
		Msg: fmt.Sprintf("the ready check did not succeed within %d s; last: %s", seconds, said),
	}
}

// sleep waits, and returns false once ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
