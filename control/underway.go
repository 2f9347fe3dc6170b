package control

import "sync"

// underway counts what is being done at the node, and takes no more once it has
// been closed.
type underway struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when it is closed and n is 0
}

// begin counts one, unless it is closed.
func (u *underway) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.n++
	return true
}

func (u *underway) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n--
	if u.closed && u.n == 0 {
		close(u.idle)
	}
}

// close takes no more and returns what is closed when all has ended.
func (u *underway) close() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed, u.idle = true, make(chan struct{})
	if u.n == 0 {
		close(u.idle)
	}
	return u.idle
}
