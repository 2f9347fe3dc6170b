package main

import (
	"fmt"
	"io"
	"runtime"
	"time"
)

func report(w io.Writer, all results, took time.Duration) {
	fmt.Fprintf(w, "%s/%s, %d CPUs, %s, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly), took.Round(time.Second))
	fmt.Fprintf(w, "%-20s %-4s %4s %8s %8s %8s %8s  %s\n", "subject", "unit", "n", "p50", "p95", "p99", "success", "what")
	for _, s := range allSeries {
		v := all[s.name]
		if v == nil {
			continue
		}
		fmt.Fprintf(w, "%-20s %-4s %4d %8.*f %8.*f %8.*f %7.0f%%  %s\n", s.name, s.unit, len(v.Values)+len(v.Failed),
			digits(s), v.quantile(.5), digits(s), v.quantile(.95), digits(s), v.quantile(.99), v.success()*100, s.what)
	}
	reportPairs(w, all)
	for _, s := range allSeries {
		if v := all[s.name]; v != nil && len(v.Failed) > 0 {
			fmt.Fprintf(w, "%s failed %d times, first with: %s\n", s.name, len(v.Failed), v.Failed[0])
		}
	}
}

// digits is how many decimals of a series mean something.
func digits(s series) int {
	switch s.unit {
	case "MiB":
		return 1
	case "CPU", "×":
		return 2
	}
	return 0
}

// check holds the series against the budgets. A budget of what was not measured
// is left out.
func check(w io.Writer, all results) error {
	exceeded := 0
	for _, b := range budgets {
		of, ok := all.of(b)
		if !ok {
			continue
		}
		got := b.value(of)
		verdict := "ok"
		if !(got <= b.most) {
			verdict = "EXCEEDED"
			exceeded++
		}
		fmt.Fprintf(w, "budget %-24s %8.2f of %8.2f %-3s  %s\n", b.id, got, b.most, b.unit, verdict)
	}
	if exceeded > 0 {
		return fmt.Errorf("%d of %d budgets exceeded", exceeded, len(budgets))
	}
	return nil
}

// of returns the series of a budget, if all were measured.
func (r results) of(b budget) (list []*samples, ok bool) {
	for _, name := range b.of {
		if r[name] == nil {
			return nil, false
		}
		list = append(list, r[name])
	}
	return list, true
}
