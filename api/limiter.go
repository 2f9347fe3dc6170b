package api

import (
	"net/netip"
	"sync"
	"time"
)

// Failures from one address: so many at once, then one each failEvery.
const (
	failBurst = 20
	failEvery = 3 * time.Second
	maxFailed = 8 << 10 // addresses that are remembered; more share one entry
)

// limiter bounds how often an address may show what opens nothing. Its methods
// may be called at the same time.
type limiter struct {
	mu sync.Mutex
	of map[netip.Prefix]time.Time // when what it has failed will be forgotten
}

func newLimiter() *limiter { return &limiter{of: map[netip.Prefix]time.Time{}} }

// crowd is the entry of all addresses for which there is no room.
var crowd netip.Prefix

// network is what counts as one address: of IPv6 the part that one customer has.
func network(addr string) netip.Prefix {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return crowd
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// wait returns how long an address has to wait until it may try again.
func (l *limiter) wait(addr string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, known := l.of[l.entry(network(addr))]
	if !known {
		return 0
	}
	return max(0, time.Until(until.Add(-(failBurst-1)*failEvery)))
}

// failed counts a failure.
func (l *limiter) failed(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	p := l.entry(network(addr))
	if _, known := l.of[p]; !known && len(l.of) >= maxFailed {
		l.forget(now)
		p = l.entry(p)
	}
	until := l.of[p]
	if until.Before(now) {
		until = now
	}
	l.of[p] = until.Add(failEvery)
}

// entry is where an address is counted. The caller holds mu.
func (l *limiter) entry(p netip.Prefix) netip.Prefix {
	if _, known := l.of[p]; !known && len(l.of) >= maxFailed {
		return crowd
	}
	return p
}

func (l *limiter) forget(now time.Time) {
	for p, until := range l.of {
		if until.Before(now) {
			delete(l.of, p)
		}
	}
}
