package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Start starts a stopped or failed workspace, and lets a paused one go on. It
// returns once processes can be started in it.
func (c *Control) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return c.place(ctx, id, placement{verb: "start", from: []dayfly.State{dayfly.Stopped, dayfly.Failed, dayfly.Paused}, do: c.node.Start})
}

// Resume lets a paused workspace go on, or a failed one that has a pause.
func (c *Control) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return c.place(ctx, id, placement{verb: "resume", from: []dayfly.State{dayfly.Paused, dayfly.Failed}, do: c.node.Resume})
}

// Rollback puts a workspace back to where it was when a snapshot was taken of it,
// or to its previous pause (dayfly.PreviousPause).
func (c *Control) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	k, err := c.manage(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if ref != dayfly.PreviousPause {
		sn, err := c.snapshot(ctx, k.view.Load().Namespace, ref)
		if err != nil {
			return dayfly.Workspace{}, err
		}
		ref = string(sn.ID)
	}
	return c.place(ctx, id, placement{
		verb: "rollback", from: []dayfly.State{dayfly.Running, dayfly.Paused, dayfly.Stopped, dayfly.Failed},
		do: func(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
			return c.node.Rollback(ctx, id, ref)
		},
	})
}

// Restart stops a running workspace in order and starts it again; any other is
// started.
func (c *Control) Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return c.place(ctx, id, placement{verb: "restart", from: []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}, do: c.restart})
}

func (c *Control) restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	ws, err := c.node.Get(ctx, id)
	if err != nil {
		return ws, err
	}
	if ws.State == dayfly.Running || ws.State == dayfly.Paused {
		if ws, err = c.node.Stop(context.WithoutCancel(ctx), id); err != nil {
			return ws, err
		}
	}
	k := c.keeperOf(id)
	if k == nil {
		return ws, notFound(id)
	}
	return c.start(ctx, id, k.view.Load().Spec, false, c.node.Start)
}

// placement is a change after which a machine runs.
type placement struct {
	verb  string
	from  []dayfly.State
	do    func(context.Context, dayfly.ID) (dayfly.Workspace, error)
	actor string
	event []dayfly.EventType // told once the store has room
	own   bool               // by a rule
}

// place does what makes a workspace run: a place at the gate, room in the
// store, then the node.
func (c *Control) place(ctx context.Context, id dayfly.ID, p placement) (dayfly.Workspace, error) {
	k, err := c.manage(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if err := k.allows(p); err != nil {
		return dayfly.Workspace{}, err
	}
	leave, err := c.gate.enter(ctx, false)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	defer leave()
	p.actor = dayfly.CallerOf(ctx).Key
	return k.ask(func(reply func(error)) { k.place(ctx, p, reply) })
}

// allows is an early answer, before the queue.
func (k *keeper) allows(p placement) error {
	ws := k.view.Load()
	if !slices.Contains(p.from, ws.State) {
		return k.refusal(p.verb, ws.State)
	}
	return nil
}

func (k *keeper) refusal(verb string, s dayfly.State) error {
	return dayfly.Errorf(dayfly.Conflict, "workspace %s is %s: %s", k.id, s, cmp.Or(remedies[verb], "it cannot "+verb+" now"))
}

// remedies say, by verb, what state it takes.
var remedies = map[string]string{
	"start":    "only a stopped, paused or failed one can be started",
	"resume":   "only a paused one can be resumed",
	"fork":     "only a running one can be copied",
	"snapshot": "only a running one can be copied",
	"pause":    "only a running one can be paused",
	"stop":     "only a running, paused or failed one can be stopped",
}

// free returns a Conflict if something is under way already.
func (k *keeper) free(verb string) error {
	switch {
	case k.deletion != nil:
		return dayfly.Errorf(dayfly.Conflict, "%s: workspace %s is %s and %s", verb, k.id, k.rec.State, reasonDeleting)
	case k.op != nil:
		return dayfly.Errorf(dayfly.Conflict, "%s: workspace %s is %s, and a %s of it is under way: wait for its end", verb, k.id, k.rec.State, k.op.verb)
	}
	return nil
}

// place is the owner's part. Room is reserved while op is taken, so that nothing
// comes in between.
func (k *keeper) place(ctx context.Context, p placement, reply func(error)) {
	if err := k.free(p.verb); err != nil {
		reply(err)
		return
	}
	was := k.rec.State
	if !slices.Contains(p.from, was) {
		reply(k.refusal(p.verb, was))
		return
	}
	k.restartAt, k.failing, k.restarting = time.Time{}, "", false
	reserving := &operation{verb: p.verb, actor: p.actor, cancel: func(error) {}, done: make(chan struct{})}
	close(reserving.done) // nothing at the node
	k.op = reserving
	start := func(err error) {
		if k.op == reserving {
			k.op = nil
		}
		if err == nil {
			err = k.free(p.verb) // it may be deleted meanwhile
		}
		if err != nil {
			reply(err)
			return
		}
		k.operate(ctx, k.placing(p, was, reply))
	}
	if was == dayfly.Running {
		start(nil) // what it takes it has
		return
	}
	var events []dayfly.Event
	for _, t := range p.event {
		events = append(events, k.event(t, p.actor))
	}
	k.propose(proposal{
		reserve: true, done: start, events: events,
		change: func(r *store.Record) {
			r.State, r.Reason = dayfly.Creating, ""
			if p.own {
				r.Restarts++
			}
		},
	})
}

// placing is the node's part.
func (k *keeper) placing(p placement, was dayfly.State, reply func(error)) job {
	spec, reason := k.rec.Spec, k.rec.Reason
	never := k.rec.StartKind == ""
	return job{
		verb: p.verb, actor: p.actor, anew: true,
		do: func(ctx context.Context) (dayfly.Workspace, error) { return k.c.start(ctx, k.id, spec, never, p.do) },
		done: func(err error) {
			if k.deletion != nil {
				reply(errors.Join(k.free(p.verb)))
				return
			}
			if err != nil && k.rec.State == dayfly.Creating { // the node has nothing to say of it
				k.become(dayfly.Failed, message(err))
			}
			if err != nil && k.rec.State == was && k.rec.Reason == "" {
				k.rec.Reason = reason
			}
			var refused *resizeError
			if errors.As(err, &refused) { // the next start is one without it
				k.rec.Spec.CPUs, k.rec.Spec.MemoryMiB, k.rec.Spec.DiskMiB = refused.is.CPUs, refused.is.MemoryMiB, refused.is.DiskMiB
				k.touch()
			}
			k.observe(err)
			k.await(func(unwritten error) { reply(err) })
		},
	}
}

// start has the node start a workspace, with the resources its record has come
// to have. One that never ran is made.
func (c *Control) start(ctx context.Context, id dayfly.ID, spec dayfly.Spec, never bool, do func(context.Context, dayfly.ID) (dayfly.Workspace, error)) (dayfly.Workspace, error) {
	ws, err := c.node.Get(ctx, id)
	if never && dayfly.KindOf(err) == dayfly.NotFound {
		return c.node.CreateAs(ctx, id, nodeSpec(spec))
	}
	if dayfly.KindOf(err) == dayfly.NotFound {
		return ws, dayfly.Errorf(dayfly.Conflict, "workspace %s cannot be started: %s", id, reasonLost)
	}
	if err != nil {
		return ws, err
	}
	if ws.State != dayfly.Paused {
		c.forgetBegun(id) // the main command of a machine that there no longer is
	}
	if (ws.State == dayfly.Stopped || ws.State == dayfly.Failed) && resized(ws.Spec, spec) {
		if _, err := c.node.Update(ctx, id, nodeSpec(spec)); err != nil {
			return ws, &resizeError{err, ws.Spec}
		}
	}
	return do(ctx, id)
}

// resizeError says that the node cannot give a workspace the size that its
// record has come to have: what it has instead.
type resizeError struct {
	error
	is dayfly.Spec
}

func (e *resizeError) Unwrap() error { return e.error }

func resized(a, b dayfly.Spec) bool {
	return a.CPUs != b.CPUs || a.MemoryMiB != b.MemoryMiB || a.DiskMiB != b.DiskMiB || a.Name != b.Name
}

// nodeSpec is what of a spec is the node's.
func nodeSpec(s dayfly.Spec) dayfly.Spec {
	return dayfly.Spec{
		Image: s.Image, Snapshot: s.Snapshot, Name: s.Name,
		CPUs: s.CPUs, CPULimit: s.CPULimit, MemoryMiB: s.MemoryMiB, DiskMiB: s.DiskMiB,
		Env: s.Env, User: s.User, Workdir: s.Workdir, Accel: s.Accel, Cold: s.Cold, Keep: s.Keep,
	}
}

// Stop ends a workspace's processes and machine in order and keeps its disk. It
// goes on if the caller leaves.
func (c *Control) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return c.halt(ctx, id, halting{verb: "stop", to: dayfly.Stopped, do: c.node.Stop, caller: true})
}

// Pause keeps a workspace's memory and disk and ends its machine. It goes on if
// the caller leaves.
func (c *Control) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return c.halt(ctx, id, halting{verb: "pause", to: dayfly.Paused, do: c.node.Pause})
}

// halting is a change after which no machine runs.
type halting struct {
	verb   string
	to     dayfly.State
	do     func(context.Context, dayfly.ID) (dayfly.Workspace, error)
	caller bool   // asked for it, and restart rules respect that
	actor  string // whose key
	reason string // if a rule did it
}

func (c *Control) halt(ctx context.Context, id dayfly.ID, h halting) (dayfly.Workspace, error) {
	k, err := c.manage(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	h.actor = dayfly.CallerOf(ctx).Key
	return k.ask(func(reply func(error)) { k.halt(context.WithoutCancel(ctx), h, reply) })
}

func (k *keeper) halt(ctx context.Context, h halting, reply func(error)) {
	err := k.free(h.verb)
	switch is := k.rec.State; {
	case err != nil:
	case is == h.to:
		if h.caller && !k.rec.StoppedByCaller {
			k.rec.StoppedByCaller = true
			k.touch()
		}
		k.await(func(error) { reply(nil) })
		return
	case is.To(h.to) != nil, is == dayfly.Creating, is == dayfly.Failed && h.to == dayfly.Paused:
		err = k.refusal(h.verb, is)
	}
	if err != nil {
		reply(err)
		return
	}
	k.restartAt, k.restarting = time.Time{}, false
	if k.rec.State == dayfly.Failed && k.rec.StartKind == "" { // nothing is there to be stopped
		k.rec.StoppedByCaller = h.caller
		k.become(dayfly.Stopped, k.rec.Reason)
		k.await(func(error) { reply(nil) })
		return
	}
	k.operate(ctx, job{
		verb: h.verb, actor: h.actor,
		do: func(ctx context.Context) (dayfly.Workspace, error) { return h.do(ctx, k.id) },
		done: func(err error) {
			if k.deletion != nil {
				reply(k.free(h.verb))
				return
			}
			if err == nil && k.rec.State == h.to {
				k.rec.StoppedByCaller = h.caller
				if h.reason != "" && k.rec.Reason == "" {
					k.rec.Reason = h.reason
				}
				k.touch()
			}
			k.await(func(error) { reply(err) })
		},
	})
}

// message is what of an error a caller may read.
func message(err error) string {
	var e *dayfly.Error
	if !errors.As(err, &e) {
		return "something went wrong in the server: its log says what"
	}
	if e.Stage != "" {
		return e.Stage + ": " + e.Msg
	}
	return e.Msg
}

// observe tells of the stages of a start that has succeeded.
func (k *keeper) observe(err error) {
	if err != nil {
		k.c.count.failed.Add(1)
		return
	}
	for _, s := range k.rec.Timeline {
		if s.Within == "" {
			k.c.opt.Observe(k.rec.StartKind, s.Name, s.Took)
		}
	}
	k.c.opt.Observe(k.rec.StartKind, "total", k.rec.Timeline.Total())
}
