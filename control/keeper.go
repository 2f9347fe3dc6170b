package control

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// keeper owns the record of one workspace. Its goroutine, run, alone touches the
// fields below "owner"; what others want of it, they send as a function to be
// called there. It never waits for the node or the store: both are asked in
// goroutines of their own, which send back what came of it.
type keeper struct {
	c    *Control
	id   dayfly.ID
	turn chan func()
	mail mail
	use  use
	gone chan struct{} // closed when the workspace is deleted, or let go of
	view atomic.Pointer[store.Record]

	// owner
	rec      store.Record
	op       *operation // what is under way at the node
	maker    *maker     // of a workspace whose creation nobody has been told of
	deletion *deletion
	over     bool

	// What is to be written.
	version   int // of rec; grows with each change
	written   int // the last version in the store
	writing   bool
	events    []dayfly.Event // not yet stored
	proposals []proposal
	waiters   []waiter
	retryAt   time.Time
	lost      bool // the store said that there is no such record

	// Rules and companions of a running machine.
	runs       int // counts times that it began to run: what is of an older one is void
	since      time.Time
	companions context.CancelFunc
	settling   []func(error) // called when it is ready, or will not be
	restartAt  time.Time     // of the machine
	restarting bool          // that waits at the gate
	ruleAt     time.Time     // a rule that was refused is not tried before
	failing    string        // it is being stopped because of this, and has then failed
}

// operation is something under way at the node. While one is, what the node says
// waits: the node is asked at its end.
type operation struct {
	verb   string
	actor  string
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the node has answered
}

// deletion is that of the workspace, which any number of callers wait for.
type deletion struct {
	actor  string
	reply  []func(error)
	failed error // what the creation failed of, if it is taken back
	at     bool  // the node has nothing of it any more
}

// proposal is a change that is made if the store takes it.
type proposal struct {
	reserve bool
	change  func(*store.Record)
	events  []dayfly.Event
	done    func(error)
}

type waiter struct {
	version int
	done    func(error)
}

// keep makes the keeper of a record. The caller starts it with begin.
func (c *Control) keep(rec store.Record) *keeper {
	k := &keeper{c: c, id: rec.ID, turn: make(chan func()), gone: make(chan struct{}), rec: rec}
	k.mail.wake = make(chan struct{}, 1)
	if rec.UsedAt != nil {
		k.use.touch(*rec.UsedAt)
	}
	k.publish()
	c.mu.Lock()
	c.keeper[rec.ID] = k
	c.mu.Unlock()
	return k
}

func (k *keeper) begin() { k.c.tasks.Go(k.run) }

// run is the owner.
func (k *keeper) run() {
	defer close(k.gone)
	defer k.unaccompany()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		k.read()
		k.rules()
		k.flush()
		k.publish()
		if k.over {
			return
		}
		if wait, ok := k.alarm(); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case f := <-k.turn:
			f()
		case <-k.mail.wake:
		case <-timer.C:
		case <-k.c.quit:
			k.last()
			return
		}
	}
}

// post has f called by the owner. It returns false if there is none any more.
func (k *keeper) post(f func()) bool {
	select {
	case k.turn <- f:
		return true
	case <-k.gone:
		return false
	}
}

// ask has f called by the owner and waits until f, or what it began, has
// replied, once. A caller who leaves is told so, and what was begun goes on, or
// is bound to ctx by f.
func (k *keeper) ask(f func(reply func(error))) (dayfly.Workspace, error) {
	answer := make(chan error, 1)
	reply := func(err error) {
		k.publish()
		answer <- err
	}
	if !k.post(func() { f(reply) }) {
		return dayfly.Workspace{}, k.ending()
	}
	select {
	case err := <-answer:
		return k.current(), err
	case <-k.gone:
	}
	select {
	case err := <-answer:
		return k.current(), err
	default:
		return dayfly.Workspace{}, k.ending()
	}
}

// ending words that there is no owner any more.
func (k *keeper) ending() error {
	if k.c.closed.Load() {
		return k.c.open()
	}
	return notFound(k.id)
}

// current is the workspace as callers see it now.
func (k *keeper) current() dayfly.Workspace {
	ws := k.view.Load().Workspace
	if at := k.use.last(k.c.now); ws.UsedAt != nil && at.After(*ws.UsedAt) {
		at = at.Truncate(time.Second)
		ws.UsedAt = &at
	}
	return ws
}

// publish shows the record to readers.
func (k *keeper) publish() {
	rec := k.rec
	k.view.Store(&rec)
}

// touch notes that the record has changed, and what is to be told of it.
func (k *keeper) touch(events ...dayfly.Event) {
	k.version++
	k.events = append(k.events, events...)
	if n := len(k.events) - maxUntold; n > 0 {
		k.events = slices.Delete(k.events, 0, n)
	}
}

// maxUntold bounds the events of a workspace that wait for the store: what is
// older is not told.
const maxUntold = 100

// await calls done once the record as it is now is in the store, or could not be
// written.
func (k *keeper) await(done func(error)) {
	if k.written == k.version {
		done(nil)
		return
	}
	k.waiters = append(k.waiters, waiter{k.version, done})
	if !k.retryAt.IsZero() {
		k.retryAt = k.c.now()
	}
}

// propose asks the store before it changes the record.
func (k *keeper) propose(p proposal) { k.proposals = append(k.proposals, p) }

// storeTimeout is how long one answer of the store is waited for.
const storeTimeout = 10 * time.Second

// flush writes what is to be written, one thing at a time.
func (k *keeper) flush() {
	switch {
	case k.writing || k.over:
	case len(k.proposals) > 0:
		p := k.proposals[0]
		k.proposals = k.proposals[1:]
		rec := k.rec
		p.change(&rec)
		k.write(store.Change{Record: rec, Reserve: p.reserve, Events: slices.Concat(k.events, p.events)}, &p)
	case k.deletion != nil && !k.deletion.at: // what it was is no news any more
	case k.written < k.version && !k.retryAt.After(k.c.now()):
		k.write(store.Change{Record: k.rec, Events: slices.Clone(k.events)}, nil)
	}
}

// write asks the store and has the owner take in the answer.
func (k *keeper) write(ch store.Change, p *proposal) {
	k.writing = true
	version, told := k.version, len(k.events)
	ch.Record.Revision = 0 // there is no other writer
	k.c.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(k.c.ended), storeTimeout)
		defer cancel()
		_, err := k.c.db.Update(ctx, ch)
		k.post(func() { k.wrote(version, told, k.c.counted(err), p) })
	})
}

// wrote takes in the answer of the store to a version of the record, or to a
// proposal on top of it.
func (k *keeper) wrote(version, told int, err error, p *proposal) {
	k.writing = false
	k.lost = dayfly.KindOf(err) == dayfly.NotFound
	if k.lost && k.deletion != nil && k.deletion.at {
		err = nil
	}
	if err == nil {
		k.retryAt = time.Time{}
		k.written = version
		k.events = slices.Delete(k.events, 0, min(told, len(k.events)))
		k.c.bell.ring()
		k.answer(version, nil)
	}
	if p != nil {
		if err == nil {
			p.change(&k.rec)
			k.version++
			if k.version == version+1 {
				k.written = k.version // nothing has changed meanwhile
			}
		}
		p.done(err)
		return
	}
	if err != nil {
		k.retryAt = k.c.now().Add(storeRetry)
		k.answer(version, err)
	}
	if k.lost {
		k.c.log.Error("record of a workspace is gone from the store", "workspace", k.id)
		k.retryAt = k.c.now().Add(time.Hour)
	}
	if k.deletion != nil && k.deletion.at && k.written == k.version {
		k.finish()
	}
}

// storeRetry is when a write that the store refused is tried again.
const storeRetry = time.Second

// answer tells those who wait for a version.
func (k *keeper) answer(version int, err error) {
	waiting := k.waiters
	k.waiters = nil
	for _, w := range waiting {
		if w.version > version {
			k.waiters = append(k.waiters, w)
			continue
		}
		w.done(err)
	}
}

// last writes what is to be written as the server ends, once.
func (k *keeper) last() {
	for k.writing {
		(<-k.turn)()
	}
	k.read()
	if at := k.use.last(k.c.now); k.rec.UsedAt != nil && k.rec.State == dayfly.Running && at.After(*k.rec.UsedAt) {
		k.rec.UsedAt = &at
		k.touch()
	}
	for _, p := range k.proposals {
		p.done(k.c.open())
	}
	k.proposals = nil
	if k.written < k.version && !k.lost {
		k.write(store.Change{Record: k.rec, Events: slices.Clone(k.events)}, nil)
		for k.writing {
			(<-k.turn)()
		}
	}
	k.publish()
	k.answer(k.version, k.c.open())
	k.settle(k.c.open())
}

// mail holds what the node has said and the owner has not read, in order.
type mail struct {
	wake chan struct{}
	mu   sync.Mutex
	news []dayfly.Workspace
}

// maxMail bounds what waits for an owner; only the latest of it is true.
const maxMail = 16

func (m *mail) put(ws dayfly.Workspace) {
	m.mu.Lock()
	if len(m.news) == maxMail {
		m.news = m.news[1:]
	}
	m.news = append(m.news, ws)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mail) take() []dayfly.Workspace {
	m.mu.Lock()
	defer m.mu.Unlock()
	news := m.news
	m.news = nil
	return news
}

// read merges what the node has said since. While something is under way there,
// its end decides.
func (k *keeper) read() {
	if k.op != nil || k.deletion != nil {
		return
	}
	for _, ws := range k.mail.take() {
		k.merge(ws)
	}
}
