package control

import (
	"context"
	"errors"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Create makes a workspace in the caller's namespace. With dayfly.WaitCreated it
// returns once the record is durable; else once it is ready, and a start that
// fails, or a caller who leaves, leaves nothing. With o.Once a request that is
// repeated gets what the first one made.
func (c *Control) Create(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error) {
	if err := errors.Join(c.open(), noToken(ctx)); err != nil {
		return dayfly.Workspace{}, err
	}
	m := &making{c: c, ctx: ctx, o: o, caller: dayfly.CallerOf(ctx), admitted: make(chan error, 1)}
	var err error
	if m.spec, err = c.check(ctx, spec, o); err != nil {
		return dayfly.Workspace{}, err
	}
	if o.Once == "" { // a repeated request needs no room
		if err := c.hasRoom(ctx, m.caller.Home(), m.spec); err != nil {
			return dayfly.Workspace{}, err
		}
	}
	leave, err := c.gate.enter(ctx, false)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return m.make(leave)
}

// maker is what is owed to whoever creates a workspace, until it is ready or
// somebody has been told of it.
type maker struct {
	ready    bool // it is taken back if it does not become ready
	together bool // with others, whose maker is told of all at once or of none
}

// making is a creation under way.
type making struct {
	c      *Control
	ctx    context.Context //nolint:containedctx // the callback that admits it has no other way to the caller's
	o      dayfly.CreateOptions
	caller dayfly.Caller
	spec   dayfly.Spec

	admitted chan error     // nil once the record is durable
	k        *keeper        // set before
	repeated []store.Record // likewise: what an earlier request made
	result   chan error     // its being ready, or not
}

// errRepeated ends a creation that an earlier request has made already.
var errRepeated = errors.New("made by an earlier request")

// make starts the work, which the caller's leaving does not end by itself, and
// waits for what was asked for.
func (m *making) make(leave func()) (dayfly.Workspace, error) {
	if !m.c.ops.begin() {
		leave()
		return dayfly.Workspace{}, m.c.open()
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(m.ctx))
	stop := context.AfterFunc(m.c.ended, func() { cancel(context.Canceled) })
	op := &operation{verb: "creation", actor: m.caller.Key, cancel: cancel, done: make(chan struct{})}
	m.c.tasks.Go(func() {
		defer m.c.ops.end()
		defer leave()
		defer stop()
		defer cancel(nil)
		ws, err := m.c.node.CreateAdmitted(ctx, nodeSpec(m.spec), func(ws dayfly.Workspace) error {
			err := m.admit(ctx, ws, op)
			m.admitted <- err
			return err
		})
		close(op.done)
		if m.k == nil { // refused, by the node before it asked or by the store
			select {
			case m.admitted <- err:
			default:
			}
			return
		}
		m.k.mail.take() // older than the answer
		is, lost := m.c.ask(ws.ID)
		m.k.post(func() { m.k.made(op, ws, err, is, lost) })
	})
	return m.wait(cancel)
}

// wait returns when the caller has what it asked for.
func (m *making) wait(cancel context.CancelCauseFunc) (dayfly.Workspace, error) {
	var err error
	select {
	case err = <-m.admitted:
	case <-m.ctx.Done():
		cancel(context.Cause(m.ctx))
		if err = <-m.admitted; err == nil {
			return m.leave()
		}
	}
	switch {
	case errors.Is(err, errRepeated):
		return m.again()
	case err != nil:
		return dayfly.Workspace{}, err
	case m.o.Wait == dayfly.WaitCreated:
		return m.k.current(), nil
	}
	select {
	case err := <-m.result:
		if err != nil {
			m.c.forgetKey(m.caller.Home(), m.o.Once)
			return dayfly.Workspace{}, err
		}
		return m.k.current(), nil
	case <-m.ctx.Done():
		return m.leave()
	}
}

// leave takes the workspace back, as its maker has gone.
func (m *making) leave() (dayfly.Workspace, error) {
	if m.c.abandon(m.k) {
		m.c.forgetKey(m.caller.Home(), m.o.Once)
	}
	return dayfly.Workspace{}, cutOff(m.ctx, "the creation")
}

// admit makes the record durable and its keeper.
func (m *making) admit(ctx context.Context, ws dayfly.Workspace, op *operation) error {
	if err := context.Cause(m.ctx); err != nil {
		return cutOff(m.ctx, "the creation")
	}
	home := m.caller.Home()
	now := m.c.now()
	ws.State, ws.Spec, ws.Name, ws.Namespace, ws.CreatedAt = dayfly.Creating, m.spec, m.spec.Name, home, now
	rec := store.Record{Workspace: ws, Durable: m.o.Wait == dayfly.WaitCreated || m.o.Once != ""}
	k := m.c.keep(rec)
	k.op = op
	k.maker = &maker{ready: m.o.Wait != dayfly.WaitCreated}
	creation := store.Creation{Records: []store.Record{rec}, Events: []dayfly.Event{k.event(dayfly.WorkspaceCreated, m.caller.Key)}}
	if m.o.Once != "" {
		creation.Once = store.Once{Key: m.o.Once, Request: digest(m.spec)}
	}
	had, repeated, err := m.c.create(ctx, creation)
	if repeated {
		m.repeated, err = had, errRepeated
	}
	if err != nil {
		m.c.refuse(err, k)
		return err
	}
	m.result = make(chan error, 1)
	k.settling = append(k.settling, func(err error) { m.result <- err })
	m.k = k
	k.begin()
	m.c.bell.ring()
	return nil
}

// create asks the store for room.
func (c *Control) create(ctx context.Context, creation store.Creation) ([]store.Record, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	had, repeated, err := c.db.Create(ctx, creation)
	return had, repeated, c.counted(err)
}

// refuse forgets keepers whose records the store did not take. Where it may have
// taken them all the same, they are deleted there, however long that takes.
func (c *Control) refuse(err error, list ...*keeper) {
	for _, k := range list {
		kind := dayfly.KindOf(err)
		if errors.Is(err, errRepeated) || kind != dayfly.Unavailable && kind != dayfly.Internal {
			c.forget(k)
			continue
		}
		k.op = nil
		k.maker = nil
		k.remove("", nil)
		k.begin()
	}
}

func (c *Control) forget(k *keeper) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keeper[k.id] == k {
		delete(c.keeper, k.id)
	}
}

// again answers a request that was made before.
func (m *making) again() (dayfly.Workspace, error) {
	if len(m.repeated) == 0 {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "what was made with the idempotency key %q is deleted: use another key", m.o.Once)
	}
	k, err := m.c.find(m.ctx, m.repeated[0].ID)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if m.o.Wait == dayfly.WaitCreated {
		return k.current(), nil
	}
	return k.whenReady(m.ctx)
}

// whenReady waits until a workspace is ready, or is not on its way there.
func (k *keeper) whenReady(ctx context.Context) (dayfly.Workspace, error) {
	result := make(chan error, 1)
	k.post(func() {
		on := k.rec.State == dayfly.Creating || k.rec.State == dayfly.Running && !k.rec.Ready
		if !on || k.deletion != nil {
			result <- nil
			return
		}
		k.settling = append(k.settling, func(err error) { result <- err })
	})
	select {
	case err := <-result:
		return k.current(), err
	case <-k.gone:
		return dayfly.Workspace{}, k.ending()
	case <-ctx.Done():
		return dayfly.Workspace{}, cutOff(ctx, "waiting until it is ready")
	}
}

// made takes in the end of a creation at the node.
func (k *keeper) made(op *operation, ws dayfly.Workspace, err error, is dayfly.Workspace, lost error) {
	if k.op != op {
		return
	}
	if k.deletion != nil {
		k.op = nil
		return
	}
	if err == nil {
		k.merge(ws)
		if lost == nil {
			k.merge(is)
		}
		k.op = nil
		k.observe(nil)
		return
	}
	k.op = nil
	k.observe(err)
	k.unmade(err)
}

// unmade takes back a workspace whose start has failed, or says so in its
// record.
func (k *keeper) unmade(err error) {
	if k.maker != nil && k.maker.ready {
		k.remove("", err)
		return
	}
	k.maker = nil
	k.become(dayfly.Failed, message(err))
}

// settle tells who waits for a workspace to be ready.
func (k *keeper) settle(err error) {
	waiting := k.settling
	k.settling = nil
	for _, f := range waiting {
		f(err)
	}
}

// becomeReady notes that a workspace is ready, which its maker may hear once it
// is durable.
func (k *keeper) becomeReady() {
	m := k.maker
	k.rec.Ready = true
	k.rec.Durable = k.rec.Durable || m == nil || !m.together
	k.touch(k.event(dayfly.WorkspaceReady, k.actor()))
	k.await(func(err error) {
		if err != nil && m != nil && m.ready && k.maker == m {
			k.remove("", err)
			return
		}
		k.maker = nil
		k.settle(nil)
	})
}

// abandon takes back a workspace whose maker has left, unless somebody else
// waits for it or it was ready just before, and reports whether it did.
func (c *Control) abandon(k *keeper) bool {
	done := make(chan bool, 1)
	ok := k.post(func() {
		if k.maker == nil || len(k.settling) > 1 {
			done <- false
			return
		}
		k.remove("", cutOffByCaller, func(error) { done <- true })
	})
	if !ok {
		return true
	}
	select {
	case gone := <-done:
		return gone
	case <-k.gone:
		return true
	}
}

var cutOffByCaller = dayfly.Errorf(dayfly.Unavailable, "the creation was cut off by its caller")
