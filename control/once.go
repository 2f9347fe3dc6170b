package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// Whoever makes something may send an idempotency key, dayfly.Caller.Once. The
// store remembers, in the transaction that makes it, what the request with a key
// has made; one that is repeated while the first is under way waits here for its
// end. A creation of a workspace, which has a record before it has anything else,
// does the same by itself: see create.go.

// single is a request that is done once for its idempotency key.
type single struct {
	store.Once
	made  []string // by an earlier request
	again bool     // there was one
	leave func()   // lets the next with the same key in
}

// once waits for its turn, and looks whether the request was done before. The
// caller says what it asks for, and calls leave at its end.
func (c *Control) once(ctx context.Context, asked ...any) (single, error) {
	caller := dayfly.CallerOf(ctx)
	if caller.Once == "" {
		return single{leave: func() {}}, nil
	}
	if len(caller.Once) > maxOnce {
		return single{}, dayfly.Errorf(dayfly.Invalid, "the idempotency key is %d bytes long: use at most %d", len(caller.Once), maxOnce)
	}
	s := single{Once: store.Once{Namespace: caller.Home(), Key: caller.Once, Request: digest(asked)}}
	var err error
	if s.leave, err = c.turns.take(ctx, s.Namespace+"\x00"+s.Key); err != nil {
		return single{}, err
	}
	if s.made, s.again, err = c.db.Made(ctx, s.Once); err != nil {
		s.leave()
		return single{}, c.counted(err)
	}
	return s, nil
}

// mayHaveMade reports whether a request on a workspace that is not there may have
// been done before that went: its idempotency key says so.
func mayHaveMade(ctx context.Context, err error) bool {
	return dayfly.KindOf(err) == dayfly.NotFound && dayfly.CallerOf(ctx).Once != "" && noToken(ctx) == nil
}

// gone is the answer to a request whose work is deleted.
func (s single) gone() error {
	return dayfly.Errorf(dayfly.Conflict, "what was made with the idempotency key %q is deleted: use another key", s.Key)
}

// orGone words that what a request made before is not there.
func (s single) orGone(err error) error {
	if dayfly.KindOf(err) == dayfly.NotFound {
		return s.gone()
	}
	return err
}

// digest tells requests apart.
func digest(asked any) string {
	b, _ := json.Marshal(asked) // plain data: cannot fail
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// turns let what has the same name in one after another.
type turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed at the end
}

func (t *turns) take(ctx context.Context, name string) (leave func(), err error) {
	for {
		ended, ok := t.try(name)
		if ok {
			return func() { t.end(name) }, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, cutOff(ctx, "waiting for an earlier request with the same idempotency key")
		}
	}
}

func (t *turns) try(name string) (ended <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.busy[name]; c != nil {
		return c, false
	}
	if t.busy == nil {
		t.busy = map[string]chan struct{}{}
	}
	t.busy[name] = make(chan struct{})
	return nil, true
}

func (t *turns) end(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.busy[name])
	delete(t.busy, name)
}
