package control

import (
	"context"
	"time"

	"github.com/dayfly/dayfly"
)

// Times of rules.
const (
	maxBackoff   = time.Minute
	resetAfter   = 10 * time.Minute // of running: what comes then is no restart in a row
	ruleRetry    = 5 * time.Second  // after a rule could not be followed
	usedInterval = time.Minute      // between two notes of a use in the store
	tick         = time.Second      // deadlines are looked at no later than this: the wall clock may step
)

// backoff is the pause before the n-th restart in a row.
func backoff(n int) time.Duration {
	if n > 6 {
		return maxBackoff
	}
	return min(time.Second<<max(n-1, 0), maxBackoff)
}

// rule is something to be done at a time. at is zero for rules that do not
// apply.
type rule struct {
	name string
	at   time.Time
	do   func(*keeper)
}

// plan is every rule that applies to the workspace as it is, in the order of
// precedence at one moment.
func (k *keeper) plan() []rule {
	var rules []rule
	add := func(name string, at time.Time, do func(*keeper)) {
		if !at.IsZero() {
			rules = append(rules, rule{name, at, do})
		}
	}
	ws := &k.rec.Workspace
	running := ws.State == dayfly.Running
	if ws.ExpiresAt != nil && (running || ws.State == dayfly.Failed && ws.Spec.AtTimeout() == dayfly.DeleteIt) {
		add("timeout", *ws.ExpiresAt, (*keeper).expire)
	}
	used := k.use.last(k.c.now)
	idle := func(seconds int) time.Time {
		if seconds == 0 || used.IsZero() {
			return time.Time{}
		}
		return used.Add(time.Duration(seconds) * time.Second)
	}
	if running || ws.State == dayfly.Paused && ws.Reason == reasonIdle {
		add("idle stop", idle(ws.Spec.Idle.StopAfter), func(k *keeper) {
			k.rest(halting{verb: "stop", to: dayfly.Stopped, do: k.c.node.Stop, reason: reasonIdle})
		})
	}
	if running {
		add("idle pause", idle(ws.Spec.Idle.PauseAfter), func(k *keeper) {
			k.rest(halting{verb: "pause", to: dayfly.Paused, do: k.c.node.Pause, reason: reasonIdle})
		})
		if ws.Exit != nil && ws.Spec.RemoveOnExit {
			add("exit", ws.Exit.At, func(k *keeper) { k.remove("", nil) })
		}
		add("command", k.commandDue(), (*keeper).commandAgain)
		if ws.Restarts > 0 && (ws.Exit == nil || !k.wantsRestart(failure(*ws.Exit))) {
			add("reset", k.since.Add(resetAfter), (*keeper).forgive)
		}
	}
	if ws.State == dayfly.Failed || ws.State == dayfly.Stopped {
		add("restart", k.restartAt, (*keeper).again)
	}
	return rules
}

// rules does what is due, one thing at a time.
func (k *keeper) rules() {
	if k.over || k.op != nil || k.deletion != nil || k.c.isClosing() {
		return
	}
	now := k.c.now()
	k.noteUse(now)
	if k.ruleAt.After(now) {
		return
	}
	for _, r := range k.plan() {
		if !r.at.After(now) {
			k.c.log.Info("workspace rule", "workspace", k.id, "rule", r.name)
			k.ruleAt = time.Time{}
			r.do(k)
			return
		}
	}
}

// alarm is how long the owner may sleep. Deadlines are wall time, so it looks
// again after a tick.
func (k *keeper) alarm() (time.Duration, bool) {
	now := k.c.now()
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if k.written < k.version && !k.writing && (k.deletion == nil || k.deletion.at) {
		sooner(k.retryAt)
	}
	if k.op == nil && k.deletion == nil {
		for _, r := range k.plan() {
			sooner(r.at)
		}
		if !next.IsZero() && next.Before(k.ruleAt) {
			next = k.ruleAt
		}
		if k.rec.State == dayfly.Running && k.rec.UsedAt != nil && k.use.last(k.c.now).After(*k.rec.UsedAt) {
			sooner(k.rec.UsedAt.Add(usedInterval))
		}
	}
	if next.IsZero() {
		return 0, false
	}
	return min(max(next.Sub(now), time.Millisecond), tick), true
}

func (c *Control) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// expire does what is to be done when the time is up.
func (k *keeper) expire() {
	switch k.rec.Spec.AtTimeout() {
	case dayfly.StopIt:
		k.rest(halting{verb: "stop", to: dayfly.Stopped, do: k.c.node.Stop, reason: "its time was up"})
	case dayfly.PauseIt:
		k.rest(halting{verb: "pause", to: dayfly.Paused, do: k.c.node.Pause, reason: "its time was up"})
	default:
		k.remove("", nil)
	}
}

// rest is halt by a rule. What is refused is tried again.
func (k *keeper) rest(h halting) {
	k.halt(k.c.ended, h, func(err error) {
		if err != nil {
			k.c.log.Warn("workspace rule", "workspace", k.id, "verb", h.verb, "err", err)
			k.ruleAt = k.c.now().Add(ruleRetry)
		}
	})
}

// noteUse keeps the last use in the record, not at each one.
func (k *keeper) noteUse(now time.Time) {
	if k.rec.State != dayfly.Running || k.rec.UsedAt == nil {
		return
	}
	at := k.use.last(k.c.now)
	if at.After(*k.rec.UsedAt) && !now.Before(k.rec.UsedAt.Add(usedInterval)) {
		k.rec.UsedAt = &at
		k.touch()
	}
}

// forgive begins to count restarts anew.
func (k *keeper) forgive() {
	k.rec.Restarts = 0
	k.touch()
}

// mayRestart reports whether the policy has another restart for an end, which
// was a failure or not.
func (k *keeper) mayRestart(failed bool) bool {
	most := k.rec.Spec.Restart.Max
	return (most == 0 || k.rec.Restarts < most) && k.wantsRestart(failed)
}

// wantsRestart is mayRestart without its bound.
func (k *keeper) wantsRestart(failed bool) bool {
	switch k.rec.Spec.Restart.Policy {
	case dayfly.RestartAlways, dayfly.RestartUnlessStopped:
		return true
	case dayfly.RestartOnFailure:
		return failed
	}
	return false
}

// planRestart is called when the machine has failed.
func (k *keeper) planRestart(now time.Time) {
	k.restartAt = time.Time{}
	if k.rec.StartKind != "" && k.mayRestart(true) && k.rec.Reason != reasonLost {
		k.restartAt = now.Add(backoff(k.rec.Restarts + 1))
	}
}

// again starts the machine again. It waits at the gate like everybody, in a
// goroutine of its own.
func (k *keeper) again() {
	k.restartAt, k.restarting = time.Time{}, true
	p := placement{
		verb: "restart", from: []dayfly.State{dayfly.Failed, dayfly.Stopped}, do: k.c.node.Start, own: true,
		event: []dayfly.EventType{dayfly.WorkspaceRestarted},
	}
	k.own(func(ctx context.Context, done func()) {
		if !k.restarting { // somebody has stopped or started it since
			done()
			return
		}
		k.place(ctx, p, func(err error) {
			done()
			if err == nil || k.deletion != nil {
				return
			}
			k.c.log.Warn("restart of a workspace", "workspace", k.id, "err", err)
			if k.restartAt.IsZero() && k.op == nil && (k.rec.State == dayfly.Failed || k.rec.State == dayfly.Stopped) && k.mayRestart(true) {
				k.restartAt = k.c.now().Add(max(ruleRetry, backoff(k.rec.Restarts+1)))
			}
		})
	})
}

// own does what the server itself places: f, called by the owner with a place at
// the gate.
func (k *keeper) own(f func(ctx context.Context, done func())) {
	ctx := k.c.ended
	k.c.tasks.Go(func() {
		leave, err := k.c.gate.enter(ctx, true)
		if err != nil {
			return
		}
		if !k.post(func() { f(ctx, leave) }) {
			leave()
		}
	})
}

// exited takes in the end of the main command. What follows from it is a rule.
func (k *keeper) exited(exit dayfly.Exit) {
	exit.At = k.c.now()
	k.rec.Exit = &exit
	k.touch(k.event(dayfly.WorkspaceExited, ""))
}

func failure(e dayfly.Exit) bool { return e.Code != 0 }

// commandDue is when the main command is to be started again; zero: never. It
// follows from the record alone: neither a pause nor another server forgets it.
func (k *keeper) commandDue() time.Time {
	exit := k.rec.Exit
	if exit == nil || k.companions == nil || !k.hasCommand() || !k.mayRestart(failure(*exit)) {
		return time.Time{}
	}
	return exit.At.Add(backoff(k.rec.Restarts + 1))
}

// commandAgain starts the main command again.
func (k *keeper) commandAgain() {
	k.rec.Restarts++
	k.since = k.c.now()
	k.touch(k.event(dayfly.WorkspaceRestarted, ""))
	k.runCommand(beginAnew)
}

// KeepAlive counts as a use, and has the time until OnTimeout count from now:
// timeout seconds, 0 for none, or else the Spec's.
func (c *Control) KeepAlive(ctx context.Context, id dayfly.ID, timeout *int) (dayfly.Workspace, error) {
	k, err := c.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if timeout != nil && (*timeout < 0 || *timeout > maxSeconds) {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Invalid, "timeout_s is %d: use 0 to %d", *timeout, maxSeconds)
	}
	return k.ask(func(reply func(error)) {
		if k.rec.State != dayfly.Running || k.deletion != nil {
			reply(dayfly.Errorf(dayfly.Conflict, "keep-alive: workspace %s is %s", k.id, k.rec.State))
			return
		}
		now, seconds := k.c.now(), k.rec.Spec.Timeout
		if timeout != nil {
			seconds = *timeout
		}
		k.use.touch(now)
		k.rec.UsedAt, k.rec.ExpiresAt = &now, deadline(now, seconds)
		k.touch()
		k.await(reply)
	})
}
