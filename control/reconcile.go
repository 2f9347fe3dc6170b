package control

import (
	"context"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// A server begins with every record and asks the node what became of it. The
// record says what was promised, the node what is:
//
//	record                       node              then
//	nobody was told of it        anything          deleted
//	its deletion had begun       anything          deleted
//	creating, somebody was told  has none          made, in the background
//	any                          has none          failed: the host lost it
//	any                          has it            what the node says
//	running                      running           nothing: it went on, and so do its rules
//	none                         has it            recorded, in the default namespace
//
// Then restart policies start what is stopped or failed. What another process
// runs is left alone.

// settle reconciles every record, as often as it takes.
func (c *Control) settle(ctx context.Context) {
	for {
		began := time.Now()
		n, err := c.reconcile(ctx)
		if err == nil {
			c.log.Info("records settled", "workspaces", n, "took", time.Since(began))
			close(c.settled)
			return
		}
		c.log.Error("records cannot be settled yet", "err", c.counted(err))
		if !sleep(ctx, storeRetry) {
			return
		}
	}
}

func (c *Control) reconcile(ctx context.Context) (int, error) {
	var records []store.Record
	err := c.db.Each(ctx, func(r store.Record) error {
		records = append(records, r)
		return nil
	})
	if err != nil {
		return 0, err
	}
	snapshots, err := c.db.Snapshots(ctx, "")
	if err != nil {
		return 0, err
	}
	if records, err = c.findWorkspaces(ctx, records); err != nil {
		return 0, err
	}
	if err := c.findSnapshots(ctx, records, snapshots); err != nil {
		return 0, err
	}
	for _, r := range records {
		k := c.keep(r)
		k.mail.take() // older than the answer
		ws, err := c.ask(r.ID)
		k.resume(ws, err)
		k.publish() // before anybody is answered
		k.begin()
	}
	c.forgetSnapshots(ctx, snapshots)
	return len(records), nil
}

// resume is the table above. The owner has not begun yet.
func (k *keeper) resume(ws dayfly.Workspace, err error) {
	lost := dayfly.KindOf(err) == dayfly.NotFound
	never := k.rec.StartKind == ""
	switch {
	case !k.rec.Durable, k.rec.Reason == reasonDeleting:
		k.remove("", nil)
		return
	case lost && never && k.rec.State == dayfly.Creating:
		k.makeAgain()
		return
	case lost && never: // it never ran, and says why
	case lost:
		if k.rec.Reason != reasonLost {
			k.become(dayfly.Failed, reasonLost)
			k.restartAt = time.Time{}
		}
		return
	case err != nil:
		k.c.log.Error("workspace at the host", "workspace", k.id, "err", err)
	case ws.State == dayfly.Running && k.rec.State == dayfly.Running:
		k.accompany(true)
	case ws.State == dayfly.Stopped && k.rec.State == dayfly.Failed: // it was stopped because it had failed
	default:
		k.merge(ws)
	}
	k.startWithServer()
}

// startWithServer is the part of restart policies that a server's start is.
func (k *keeper) startWithServer() {
	if k.rec.State != dayfly.Stopped && k.rec.State != dayfly.Failed {
		return
	}
	now := k.c.now()
	switch k.rec.Spec.Restart.Policy {
	case dayfly.RestartAlways:
		k.restartAt = now
	case dayfly.RestartUnlessStopped:
		k.restartAt = now
		if k.rec.StoppedByCaller {
			k.restartAt = time.Time{}
		}
	case dayfly.RestartOnFailure:
		if k.rec.State == dayfly.Failed && k.restartAt.IsZero() {
			k.planRestart(now)
		}
	}
}

// makeAgain goes on with a creation that was cut off before the node had done
// anything that lasts.
func (k *keeper) makeAgain() {
	spec := k.rec.Spec
	waiting := &operation{verb: "creation", cancel: func(error) {}, done: make(chan struct{})}
	close(waiting.done)
	k.op = waiting // for its turn
	k.own(func(ctx context.Context, leave func()) {
		if k.op != waiting || k.deletion != nil {
			leave()
			return
		}
		k.operate(ctx, job{
			verb: "creation",
			do: func(ctx context.Context) (dayfly.Workspace, error) {
				return k.c.node.CreateAs(ctx, k.id, nodeSpec(spec))
			},
			done: func(err error) {
				leave()
				k.observe(err)
				if err != nil && k.deletion == nil {
					k.unmade(err)
				}
			},
		})
	})
}

// Settled is closed when every record has been reconciled: calls are answered
// from then on.
func (c *Control) Settled() <-chan struct{} { return c.settled }

// compareEvery is how soon a change that nobody told of is noticed.
const compareEvery = 30 * time.Second

// compare looks, once in a while, whether the node says what the records do: it
// may have had something to say before it knew whom to tell.
func (c *Control) compare(ctx context.Context) {
	for sleep(ctx, compareEvery) {
		c.mu.Lock()
		list := make([]*keeper, 0, len(c.keeper))
		for _, k := range c.keeper {
			list = append(list, k)
		}
		c.mu.Unlock()
		for _, k := range list {
			if ws, err := c.node.Get(ctx, k.id); err == nil && differs(k.view.Load().State, ws.State) {
				k.post(k.look)
			}
		}
	}
}

// differs reports whether a record is behind the node. One that control has
// declared failed is stopped there.
func differs(record, node dayfly.State) bool {
	return record != node && node != dayfly.Creating && (record != dayfly.Failed || node != dayfly.Stopped)
}

// look has the owner ask the node, which answers from memory.
func (k *keeper) look() {
	if k.op != nil || k.deletion != nil {
		return
	}
	k.mail.take() // older than the answer
	if ws, err := k.c.ask(k.id); err == nil && differs(k.rec.State, ws.State) {
		k.merge(ws)
	}
}
