package vmm

import (
	"time"

	"github.com/dayfly/dayfly"
)

// Limit bounds the traffic of a drive or NIC, as its guest makes it: what the
// host has in memory of it anyway counts, too. Zero is no bound.
type Limit struct {
	ReadBytes, WriteBytes int64 // a second
	ReadOps, WriteOps     int64 // a second

	// Burst is how much may come at once after a time of quiet: what that long a
	// time would have carried. Zero is LeastBurst; otherwise it is a second or more.
	Burst time.Duration
}

// Bounds of a Limit.
const (
	LeastBurst = time.Second / 10
	maxBurst   = time.Hour
	maxRate    = 1 << 40 // with the longest burst it is below what VMMs count with
)

// None reports whether nothing is bounded.
func (l Limit) None() bool { return l == Limit{Burst: l.Burst} }

// Check returns an Invalid error for what no VMM can keep.
func (l Limit) Check() error {
	for _, rate := range []int64{l.ReadBytes, l.WriteBytes, l.ReadOps, l.WriteOps} {
		if rate < 0 || rate > maxRate {
			return dayfly.Errorf(dayfly.Invalid, "a limit is %d a second: use 1 to %d, or 0 for none", rate, int64(maxRate))
		}
	}
	if l.Burst != 0 && (l.Burst < time.Second || l.Burst > maxBurst) {
		return dayfly.Errorf(dayfly.Invalid, "a limit's burst is %s: use 1s to %s, or 0", l.Burst, maxBurst)
	}
	return nil
}
