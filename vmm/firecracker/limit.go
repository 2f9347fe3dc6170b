package firecracker

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// rateLimiter bounds bytes and operations. Where it changes one that there is, a
// bucket that is left out stays: so both are always said.
type rateLimiter struct {
	Bandwidth  tokenBucket `json:"bandwidth"`
	Operations tokenBucket `json:"ops"`
}

// tokenBucket is one limit: so much at once, and so much again in every Refill. A
// Size of 0 is no limit. (A one_time_burst is only had once.)
type tokenBucket struct {
	Size   int64 `json:"size"`
	Refill int64 `json:"refill_time"` // milliseconds
}

// driveRates is the one limiter of a drive, for both directions.
func driveRates(l vmm.Limit) rateLimiter {
	return rates(lower(l.ReadBytes, l.WriteBytes), lower(l.ReadOps, l.WriteOps), l.Burst)
}

// nicRates are the limiters of what a guest receives and what it sends.
func nicRates(l vmm.Limit) (receive, send rateLimiter) {
	return rates(l.ReadBytes, l.ReadOps, l.Burst), rates(l.WriteBytes, l.WriteOps, l.Burst)
}

// lower is the lower of two bounds, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

func rates(bytes, ops int64, burst time.Duration) rateLimiter {
	return rateLimiter{bucket(bytes, burst), bucket(ops, burst)}
}

// bucket holds what a burst is, and one at least, and is filled in the time in
// which the rate brings that.
func bucket(rate int64, burst time.Duration) tokenBucket {
	if rate == 0 {
		return tokenBucket{}
	}
	size := max(1, int64(float64(rate)*max(burst, vmm.LeastBurst).Seconds()))
	return tokenBucket{size, int64(math.Ceil(float64(size) / float64(rate) * 1000))}
}

// unlessNone is nothing to ask a new device for where nothing is bounded.
func (r rateLimiter) unlessNone() *rateLimiter {
	if r == (rateLimiter{}) {
		return nil
	}
	return &r
}

func limitDrive(i int, l vmm.Limit) request {
	return request{http.MethodPatch, "/drives/" + driveName(i), driveLimit{driveName(i), driveRates(l)}, false}
}

// LimitDrive bounds the traffic of a drive, both directions together.
func (m *machine) LimitDrive(ctx context.Context, i int, l vmm.Limit) error {
	if err := l.Check(); err != nil {
		return err
	}
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) {
		return dayfly.Errorf(dayfly.Invalid, "the machine has no drive %d", i)
	}
	return m.ask(ctx, limitDrive(i, l), nil)
}
