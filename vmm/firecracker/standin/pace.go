package standin

import (
	"sync"
	"time"

	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// limits are a rate limiter's two buckets, by their names in requests.
type limits struct {
	Bandwidth tokens `json:"bandwidth"`
	Ops       tokens `json:"ops"`
}

// tokens are a bucket: so many at once, and so many again in every refill.
type tokens struct {
	Size   float64 `json:"size"`
	Refill float64 `json:"refill_time"` // milliseconds
}

// merge takes over the buckets that a request names.
func (l *limits) merge(body any) {
	buckets, _ := body.(map[string]any)
	for name, t := range map[string]*tokens{"bandwidth": &l.Bandwidth, "ops": &l.Ops} {
		if b, ok := buckets[name].(map[string]any); ok {
			t.Size, _ = b["size"].(float64)
			t.Refill, _ = b["refill_time"].(float64)
		}
	}
}

func (t tokens) rate() script.Rate {
	if t.Size == 0 || t.Refill == 0 {
		return script.Rate{}
	}
	refill := time.Duration(t.Refill * float64(time.Millisecond))
	return script.Rate{PerSecond: t.Size / refill.Seconds(), Burst: refill}
}

// pace has what is bound by it wait.
type pace struct {
	script.Traffic

	mu      sync.Mutex
	now     limits
	changed chan struct{}
}

func newPace(l limits) *pace {
	p := &pace{now: l, changed: make(chan struct{})}
	p.Bytes = &script.Pacer{Rate: func() (script.Rate, <-chan struct{}) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.now.Bandwidth.rate(), p.changed
	}}
	p.Ops = &script.Pacer{Rate: func() (script.Rate, <-chan struct{}) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.now.Ops.rate(), p.changed
	}}
	return p
}

func (p *pace) set(l limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = l
	close(p.changed)
	p.changed = make(chan struct{})
}
