package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// pairs are series that were taken in turn, one of each at a time, to tell a
// difference that is smaller than either varies by.
var pairs = [][2]string{{launchName(true), launchName(false)}}

// How sure an interval is, and how often its samples are drawn again.
const (
	sureness = .95
	resample = 2000
)

// interval is where the difference of two medians lies: pairs are drawn anew, as
// many as there are and with some twice, and the outermost of what comes out is
// left off (the percentile bootstrap). The same samples have the same interval.
func interval(a, b *samples) (low, high float64) {
	n := min(len(a.Values), len(b.Values))
	if n == 0 {
		return difference([]*samples{a, b}), difference([]*samples{a, b})
	}
	draw := rand.New(rand.NewPCG(1, uint64(n))) //nolint:gosec // no secret
	var came []float64
	for range resample {
		var x, y samples
		for range n {
			i := draw.IntN(n)
			x.Values, y.Values = append(x.Values, a.Values[i]), append(y.Values, b.Values[i])
		}
		came = append(came, difference([]*samples{&x, &y}))
	}
	slices.Sort(came)
	off := int((1 - sureness) / 2 * resample)
	return came[off], came[len(came)-1-off]
}

// reportPairs says by how much the series of a pair differ.
func reportPairs(w io.Writer, all results) {
	for _, p := range pairs {
		a, b := all[p[0]], all[p[1]]
		if a == nil || b == nil {
			continue
		}
		low, high := interval(a, b)
		fmt.Fprintf(w, "%s less %s: %.1f %s, with %.0f %% between %.1f and %.1f\n", p[0], p[1], difference([]*samples{a, b}), a.Unit, sureness*100, low, high)
	}
}
