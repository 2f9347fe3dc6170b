package main

import (
	"math"
	"slices"
)

// samples are the measurements of one series.
type samples struct {
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"`
	Failed []string  `json:"failed,omitempty"`
}

// quantile is the nearest-rank quantile; infinite where nothing succeeded.
func (s *samples) quantile(q float64) float64 {
	if len(s.Values) == 0 {
		return math.Inf(1)
	}
	v := slices.Sorted(slices.Values(s.Values))
	return v[max(0, int(math.Ceil(q*float64(len(v))))-1)]
}

func (s *samples) success() float64 {
	all := len(s.Values) + len(s.Failed)
	if all == 0 {
		return 0
	}
	return float64(len(s.Values)) / float64(all)
}

// results are the samples of every series that was measured, by its name.
type results map[string]*samples

// add notes a sample of a subject, or its failure.
func (r results) add(s subject, n notes, err error) {
	for _, name := range s.series {
		if r[name] == nil {
			r[name] = &samples{Unit: unitOf(name)}
		}
		if err != nil {
			r[name].Failed = append(r[name].Failed, err.Error())
			continue
		}
		r[name].Values = append(r[name].Values, n[name]...)
	}
}
