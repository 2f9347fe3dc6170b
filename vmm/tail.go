package vmm

import (
	"bytes"
	"sync"
)

// Tail is a writer that keeps the last bytes written to it, for drivers that
// collect a guest's console or a VMM's words. Its methods may be called at the
// same time.
type Tail struct {
	max int

	mu sync.Mutex
	b  []byte
}

// NewTail makes a Tail that keeps at most max bytes.
func NewTail(max int) *Tail { return &Tail{max: max} }

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	p = p[max(0, n-t.max):]
	if drop := len(t.b) + len(p) - t.max; drop > 0 {
		t.b = append(t.b[:0], t.b[drop:]...)
	}
	t.b = append(t.b, p...)
	return n, nil
}

// Bytes returns a copy of what is kept.
func (t *Tail) Bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.b)
}
