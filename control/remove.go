package control

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Delete leaves nothing of a workspace, in any state; a start under way is
// cancelled. It goes on if the caller leaves. It returns once the host has
// nothing of it; where the store cannot be reached, the record follows.
func (c *Control) Delete(ctx context.Context, id dayfly.ID) error {
	k, err := c.manage(ctx, id)
	if err != nil {
		return err
	}
	actor := dayfly.CallerOf(ctx).Key
	_, err = k.ask(func(reply func(error)) { k.remove(actor, nil, reply) })
	return err
}

// remove deletes the workspace: a mark in the record, so that a server that is
// killed goes on with it; what is under way is cut short; the node; the record.
// failed is why it is taken back, if it is.
func (k *keeper) remove(actor string, failed error, reply ...func(error)) {
	if k.deletion != nil {
		k.deletion.reply = append(k.deletion.reply, reply...)
		return
	}
	k.deletion = &deletion{actor: actor, failed: failed, reply: reply}
	k.unaccompany()
	op := k.op
	if op != nil {
		op.cancel(dayfly.Errorf(dayfly.Conflict, "the workspace was deleted meanwhile"))
	}
	if !k.rec.Durable { // a server that starts takes back what nobody was told of
		k.erase(op)
		return
	}
	begin := sync.OnceFunc(func() { k.erase(op) })
	late := time.AfterFunc(markTimeout, func() { k.post(begin) })
	k.propose(proposal{
		change: func(r *store.Record) { r.Reason = reasonDeleting },
		done: func(error) { // without a mark if the store is away
			late.Stop()
			begin()
		},
	})
}

// markTimeout is how long a deletion waits for its mark: one by a rule has to be
// exact to a second, also while the store hangs.
const markTimeout = 500 * time.Millisecond

// erase has the node delete it.
func (k *keeper) erase(op *operation) {
	if !k.c.ops.begin() {
		k.kept(k.c.open())
		return
	}
	k.c.tasks.Go(func() {
		defer k.c.ops.end()
		if op != nil {
			<-op.done // it has been cancelled
		}
		err := k.c.node.Delete(context.WithoutCancel(k.c.ended), k.id)
		if dayfly.KindOf(err) == dayfly.NotFound {
			err = nil
		}
		if err == nil {
			err = k.c.removeLog(k.id)
		}
		k.post(func() { k.erased(err) })
	})
}

// erased takes in the answer of the node.
func (k *keeper) erased(err error) {
	if err != nil {
		k.kept(err)
		return
	}
	k.op = nil
	k.deletion.at = true
	dropped := k.proposals
	k.proposals = nil
	for _, p := range dropped {
		p.done(notFound(k.id))
	}
	k.rec.State, k.rec.Reason, k.rec.Ready = dayfly.Deleted, "", false
	k.c.log.Debug("record", "workspace", k.id, "state", k.rec.State)
	k.touch(k.event(dayfly.WorkspaceDeleted, k.deletion.actor))
	k.await(func(error) { k.told(nil) })
}

// kept says that the node could not delete it. It is tried again when somebody
// asks, or when the server starts.
func (k *keeper) kept(err error) {
	k.c.log.Error("deletion of a workspace", "workspace", k.id, "err", err)
	d := k.deletion
	k.deletion = nil
	k.op = nil
	k.ruleAt = k.c.now().Add(ruleRetry)
	for _, f := range d.reply {
		f(err)
	}
	k.settle(err)
	k.mail.put(k.rec.Workspace) // read what the node has said meanwhile
}

// told answers everybody who waits for the end of the workspace.
func (k *keeper) told(err error) {
	if k.deletion.failed != nil {
		k.settle(k.deletion.failed)
	}
	k.settle(dayfly.Errorf(dayfly.Conflict, "workspace %s was deleted", k.id))
	for _, f := range k.deletion.reply {
		f(err)
	}
	k.deletion.reply = nil
}

// finish ends the keeper of a workspace that is nowhere any more.
func (k *keeper) finish() {
	k.told(nil)
	k.over = true
	k.c.forget(k)
	k.c.life.endWorkspace(k.id)
}

// forgetKey frees an idempotency key whose work was taken back, so that its
// owner can try again with it. A store that is away is asked again behind the
// caller's back.
func (c *Control) forgetKey(namespace, key string) {
	if key == "" || !c.storeAway(c.forgetOnce(namespace, key)) || !c.ops.begin() {
		return
	}
	c.tasks.Go(func() {
		defer c.ops.end()
		for c.pause(storeRetry) && c.storeAway(c.forgetOnce(namespace, key)) {
		}
	})
}

func (c *Control) forgetOnce(namespace, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ended), storeTimeout)
	defer cancel()
	return c.counted(c.db.Forget(ctx, namespace, key))
}

func (c *Control) storeAway(err error) bool { return dayfly.KindOf(err) == dayfly.Unavailable }

// pause waits, and returns false if the server ends meanwhile.
func (c *Control) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.closing:
		return false
	}
}

func (c *Control) removeLog(id dayfly.ID) error {
	for _, name := range []string{c.logFile(id), c.logFile(id) + olderHalf, c.logFile(id) + startedMark} {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
