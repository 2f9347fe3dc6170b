package control

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/dayfly/dayfly"
)

// Reasons that are control's to give. The first also marks, across a crash, a
// deletion that is to be finished; the second a pause that a rule may turn into
// a stop.
const (
	reasonDeleting = "it is being deleted"
	reasonIdle     = "nobody used it"
	reasonLost     = "the host has nothing of it any more: delete it"
)

// merge takes over what is the node's to say. Everything else in the record is
// control's.
func (k *keeper) merge(ws dayfly.Workspace) {
	was := k.rec.State
	if ws.State == dayfly.Deleted || ws.State == was && was == dayfly.Creating {
		return // whoever has it deleted says so itself
	}
	began := ws.State == dayfly.Running && (was != dayfly.Running || k.companions == nil)
	state, reason := ws.State, ws.Reason
	if state == was && reason == "" {
		reason = k.rec.Reason // what control has added
	}
	if k.failing != "" && state == dayfly.Stopped {
		state, reason = dayfly.Failed, k.failing
	}
	if state == was && reason == k.rec.Reason && !began {
		return
	}
	k.rec.State, k.rec.Reason = state, reason
	k.rec.Image, k.rec.Kernel, k.rec.Accel, k.rec.Parent = ws.Image, ws.Kernel, ws.Accel, ws.Parent
	k.rec.StartKind, k.rec.StartNote, k.rec.Timeline = ws.StartKind, ws.StartNote, ws.Timeline
	k.entered(was)
}

// become is merge for what control finds out by itself.
func (k *keeper) become(s dayfly.State, reason string) {
	was := k.rec.State
	k.rec.State, k.rec.Reason = s, reason
	k.entered(was)
}

// entered does what every change of state brings with it.
func (k *keeper) entered(was dayfly.State) {
	now := k.c.now()
	if k.rec.State != dayfly.Running {
		k.unaccompany()
		k.rec.Ready = false
	}
	if k.rec.State == dayfly.Paused || k.rec.State == dayfly.Stopped {
		k.rec.ExpiresAt = nil // it counts anew from the next start
	}
	if k.rec.State == was && was != dayfly.Running {
		k.touch()
		return
	}
	k.c.log.Debug("record", "workspace", k.id, "state", k.rec.State, "reason", k.rec.Reason)
	switch k.rec.State {
	case dayfly.Running:
		k.touch(k.event(dayfly.WorkspaceRunning, k.actor()))
		k.rec.Reason, k.rec.StoppedByCaller = "", false
		k.rec.ExpiresAt = deadline(now, k.rec.Spec.Timeout)
		k.use.touch(now)
		k.rec.UsedAt = &now
		k.accompany(false)
	case dayfly.Paused:
		k.touch(k.event(dayfly.WorkspacePaused, k.actor()))
	case dayfly.Stopped:
		k.touch(k.event(dayfly.WorkspaceStopped, k.actor()))
	case dayfly.Failed:
		k.touch(k.event(dayfly.WorkspaceFailed, ""))
		k.settle(dayfly.Errorf(dayfly.Unavailable, "workspace %s failed: %s", k.id, k.rec.Reason))
		k.planRestart(now)
	default:
		k.touch()
	}
}

// actor is who asked for what is under way.
func (k *keeper) actor() string {
	if k.op == nil {
		return ""
	}
	return k.op.actor
}

func (k *keeper) event(t dayfly.EventType, actor string) dayfly.Event {
	ev := dayfly.Event{
		ID: "evt_" + rand.Text(), Type: t, At: k.c.now(), Namespace: k.rec.Namespace, Workspace: k.id,
		State: k.rec.State, Reason: k.rec.Reason, Actor: actor,
	}
	if t == dayfly.WorkspaceExited {
		ev.Exit = k.rec.Exit
	}
	return ev
}

func deadline(now time.Time, seconds int) *time.Time {
	if seconds <= 0 {
		return nil
	}
	at := now.Add(time.Duration(seconds) * time.Second)
	return &at
}

// job is one thing to be done at the node.
type job struct {
	verb  string
	actor string
	do    func(context.Context) (dayfly.Workspace, error)
	anew  bool        // another machine runs after it
	done  func(error) // called by the owner, after what the node says of it has been merged
}

// operate does a job in a goroutine of its own. One at a time: the caller has
// seen to it that none is under way.
func (k *keeper) operate(ctx context.Context, j job) {
	if !k.c.ops.begin() {
		j.done(k.c.open())
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(k.c.ended, func() { cancel(context.Canceled) })
	op := &operation{verb: j.verb, actor: j.actor, cancel: cancel, done: make(chan struct{})}
	k.op = op
	k.c.tasks.Go(func() {
		defer k.c.ops.end()
		defer stop()
		defer cancel(nil)
		ws, err := j.do(ctx)
		close(op.done)
		k.mail.take() // older than the answer
		is, lost := k.c.ask(k.id)
		k.post(func() {
			if k.op != op {
				return
			}
			if k.deletion == nil {
				k.conclude(j, ws, err, is, lost)
			}
			k.op = nil
			j.done(err)
		})
	})
}

// ask asks the node what a workspace is now, whatever became of the caller.
func (c *Control) ask(id dayfly.ID) (dayfly.Workspace, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ended), storeTimeout)
	defer cancel()
	return c.node.Get(ctx, id)
}

// conclude merges what a job at the node has led to: what it returned, and what
// has become of that since.
func (k *keeper) conclude(j job, ws dayfly.Workspace, err error, is dayfly.Workspace, lost error) {
	if err == nil && j.anew {
		k.unaccompany() // that was the machine before
		k.rec.Ready = false
	}
	if err == nil && ws.ID != "" {
		k.merge(ws)
	}
	if lost == nil {
		k.merge(is)
	}
}
