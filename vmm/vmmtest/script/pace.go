package script

import (
	"sync"
	"time"
)

// Rate bounds something: so much a second, and what comes at once after a time of
// quiet is what Burst would have carried. Zero is no bound.
type Rate struct {
	PerSecond float64
	Burst     time.Duration
}

// Pacer lets so much pass as a VMM's limit does. Its methods may be called at the
// same time.
type Pacer struct {
	// Rate is what holds now, and a channel that is closed when that changes.
	Rate func() (Rate, <-chan struct{})

	mu   sync.Mutex
	owed time.Time // when all that has passed would have, without a burst
}

// Pass waits until n may pass.
func (p *Pacer) Pass(n int) {
	for {
		r, changed := p.Rate()
		wait := p.try(n, r)
		if wait <= 0 {
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
		}
		t.Stop()
	}
}

// try lets n pass, or says how long to wait.
func (p *Pacer) try(n int, r Rate) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.owed.Before(now) || r.PerSecond == 0 {
		p.owed = now
	}
	if wait := p.owed.Sub(now) - r.Burst; wait > 0 {
		return wait
	}
	if r.PerSecond > 0 {
		p.owed = p.owed.Add(time.Duration(float64(n) / r.PerSecond * float64(time.Second)))
	}
	return 0
}

// Paced is a drive whose traffic is bounded.
type Paced struct {
	Drive
	Read, Write Traffic
}

// Traffic is what bounds one direction.
type Traffic struct{ Bytes, Ops *Pacer }

// ReadAt waits until it may.
func (d Paced) ReadAt(b []byte, at int64) (int, error) {
	d.Read.Pass(len(b))
	return d.Drive.ReadAt(b, at)
}

// WriteAt waits until it may.
func (d Paced) WriteAt(b []byte, at int64) (int, error) {
	d.Write.Pass(len(b))
	return d.Drive.WriteAt(b, at)
}

// Pass waits until one operation of so many bytes may pass.
func (t Traffic) Pass(bytes int) {
	t.Bytes.Pass(bytes)
	t.Ops.Pass(1)
}
