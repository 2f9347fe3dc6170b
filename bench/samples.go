package main

import (
	"math"
	"slices"
	"time"
)

// samples are the measurements of one subject.
type samples struct {
	Millis []float64 `json:"ms"`
	Failed []string  `json:"failed,omitempty"`
}

func (s *samples) add(took time.Duration, err error) {
	if err != nil {
		s.Failed = append(s.Failed, err.Error())
		return
	}
	s.Millis = append(s.Millis, float64(took.Microseconds())/1e3)
}

// quantile is the nearest-rank quantile; infinite where nothing succeeded.
func (s *samples) quantile(q float64) float64 {
	if len(s.Millis) == 0 {
		return math.Inf(1)
	}
	v := slices.Sorted(slices.Values(s.Millis))
	return v[max(0, int(math.Ceil(q*float64(len(v))))-1)]
}

func (s *samples) success() float64 {
	all := len(s.Millis) + len(s.Failed)
	if all == 0 {
		return 0
	}
	return float64(len(s.Millis)) / float64(all)
}

// budget is one number we claim; BUDGETS.md lists the same ids.
type budget struct {
	id    string
	most  float64
	unit  string
	value func(map[string]*samples) float64
}

// budgets are those of software emulation on two shared cores with the tuned
// kernel. A machine with KVM meets them with ease.
var budgets = []budget{
	{"cold.run.p50", 1000, "ms", quantileOf("run", .5)},
	{"cold.run.ratio", 1.8, "×", ratio("run", "bare")},
	{"cold.disk200.ratio", 1.15, "×", ratio("run200", "run")},
	{"cold.run.failures", 0, "", func(m map[string]*samples) float64 { return 1 - m["run"].success() }},
}

func quantileOf(name string, q float64) func(map[string]*samples) float64 {
	return func(m map[string]*samples) float64 { return m[name].quantile(q) }
}

// ratio compares medians of series that were taken in turn.
func ratio(a, b string) func(map[string]*samples) float64 {
	return func(m map[string]*samples) float64 { return m[a].quantile(.5) / m[b].quantile(.5) }
}
