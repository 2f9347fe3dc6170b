package qemu

import (
	"sync"
	"time"
)

// Bounds on what is believed to be a time stamp counter's rate, in kHz.
const (
	minTSC = 100_000
	maxTSC = 20_000_000
)

// A reading spans at least tscSpan, which is 10 ppm of error when it begins and
// ends within 100 ns, and at most tscSpanMax, since the counter and the clock
// part ways when the host sleeps.
const (
	tscSpan    = 10 * time.Millisecond
	tscSpanMax = time.Second
)

// tscRate finds the rate of this host's time stamp counter, which is also the
// rate of the one that QEMU emulates (util/cpu_get_host_ticks): a guest that is
// told need not measure it, for which an emulated machine has too little to
// measure with. /proc/cpuinfo does not help: it shows the current clock rate.
type tscRate struct {
	from tscMark

	once sync.Once
	khz  int
}

type tscMark struct {
	ticks uint64
	at    time.Time
}

// markTSC takes the reading with the least between its two halves.
func markTSC() tscMark {
	var best tscMark
	least := time.Hour
	for range 5 {
		before := time.Now()
		ticks := rdtsc()
		after := time.Now()
		if d := after.Sub(before); d < least {
			least, best = d, tscMark{ticks: ticks, at: before.Add(d / 2)}
		}
	}
	return best
}

func newTSCRate() *tscRate { return &tscRate{from: markTSC()} }

// KHz is the rate in kHz, or 0 where it cannot be known. The first call may
// take tscSpan; those after it take nothing.
func (r *tscRate) KHz() int {
	r.once.Do(func() {
		if d := time.Since(r.from.at); d > tscSpanMax {
			r.from = markTSC()
		}
		time.Sleep(tscSpan - time.Since(r.from.at))
		to := markTSC()
		khz := float64(to.ticks-r.from.ticks) / (float64(to.at.Sub(r.from.at)) / float64(time.Millisecond))
		if khz >= minTSC && khz <= maxTSC {
			r.khz = int(khz + 0.5)
		}
	})
	return r.khz
}
