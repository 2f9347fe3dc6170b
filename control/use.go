package control

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// use is when a workspace was last used. Its methods may be called at the same
// time.
type use struct {
	mu   sync.Mutex
	open int // connections
	at   time.Time
}

func (u *use) touch(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at = now
}

func (u *use) add(n int, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open += n
	u.at = now
}

// last is the last use: now, while there are connections.
func (u *use) last(now func() time.Time) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.open > 0 {
		return now()
	}
	return u.at
}

// Dial opens a stream to a port inside a running workspace. Until it is closed
// the workspace is in use: whoever keeps connections for later requests closes
// them soon.
func (c *Control) Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error) {
	k, err := c.find(ctx, id)
	if err != nil {
		return nil, err
	}
	conn, err := c.node.Dial(ctx, id, port)
	if err != nil {
		return nil, err
	}
	k.use.add(1, c.now())
	return &used{Conn: conn, k: k}, nil
}

// Using counts as a use of the workspace until done is called, for whoever
// keeps connections and knows when they carry a request.
func (c *Control) Using(id dayfly.ID) (done func()) {
	k := c.keeperOf(id)
	if k == nil {
		return func() {}
	}
	k.use.add(1, c.now())
	return sync.OnceFunc(func() { k.unused() })
}

func (k *keeper) unused() {
	k.use.add(-1, k.c.now())
	select {
	case k.mail.wake <- struct{}{}: // its deadlines may be nearer than they were
	default:
	}
}

// used is a connection that counts as a use.
type used struct {
	net.Conn
	k    *keeper
	once sync.Once
}

func (u *used) Close() error {
	u.once.Do(u.k.unused)
	return u.Conn.Close()
}
