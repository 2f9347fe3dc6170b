package main

import "math"

// budget is one number we claim; BUDGETS.md lists the same ids.
type budget struct {
	id    string
	most  float64
	unit  string
	value func([]*samples) float64
	of    []string // the series that value is given
}

// budgets are those of software emulation on two shared cores with the tuned
// kernel. A machine with KVM meets them with ease.
var budgets = []budget{
	{"cold.run.p50", 1000, "ms", p50, []string{"run"}},
	{"cold.run.ratio", 1.8, "×", ratio, []string{"run", "bare"}},
	{"cold.disk200.ratio", 1.15, "×", ratio, []string{"run200", "run"}},
	{"cold.run.failures", 0, "", failures, []string{"run"}},

	{"restore.p50", 300, "ms", p50, []string{"restore"}},
	{"restore.ratio", 1 / 2.5, "×", ratio, []string{"restore", "run"}},
	{"disk200.restore.ratio", 1.15, "×", ratio, []string{"restore200", "restore"}},
	{"restore.failures", 0, "", failures, []string{"restore", "restore-any", "restore200"}},

	{"jail.start", 3, "ms", difference, []string{launchName(true), launchName(false)}},

	{"claim.p50", 100, "ms", p50, []string{"claim"}},
	{"claim.p99", 200, "ms", p99, []string{"claim"}},
	{"claim.failures", 0, "", failures, []string{"claim", "claim-any"}},

	{"resume.512.p50", 150, "ms", p50, []string{sizedName("resume", 512)}},
	{"resume.flat", 1.5, "×", ratio, []string{
		sizedName("resume", 8<<10), sizedName("resume", 512), sizedName("resume-exec", 8<<10), sizedName("resume-exec", 512),
	}},
	{"snapshot.paused.p50", 60, "ms", p50, named("snapshot-stood")},
	{"pause.failures", 0, "", failures, named("pause")},

	{"fork1.p50", 400, "ms", p50, []string{"fork1"}},
	{"fork.failures", 0, "", failures, []string{"fork1", "fork10"}},

	{"api.create.p50", 10, "ms", p50, []string{"api"}},
	{"api.list.p50", 20, "ms", p50, []string{"list"}},
	{"api.burst", 1.25, "×", ratio, []string{flightName("rate", 4), flightName("rate", 50)}},
	{"api.failures", 0, "", failures, []string{"api", flightName("create", 10), flightName("create", 50)}},

	{"near.quarter", 1.5, "×", ratio, besideAlone("quarter")},
	{"near.whole", 2, "×", ratio, besideAlone("whole")},
	{"near.crowd", 4, "×", ratio, besideAlone("crowd")},
	{"near.echo.p99", 1000, "ms", p99, nearNames("near-echo")},
	{"near.failures", 0, "", failures, nearNames("near-echo", "near-cpu", "near-write")},
	{"limit.cpu", 0.27, "CPU", p99, []string{nearName("limit-cpu", "quarter")}},
	{"limit.io", 1.1, "×", p99, []string{"limit-io"}},

	{"pss.idle", 60, "MiB", p50, []string{crowdName("over.restore", 30), crowdName("over.fork", 30)}},
}

// p50, p99, ratio, difference and failures are the worst of what they are given.

func p50(all []*samples) float64 { return worst(all, .5) }
func p99(all []*samples) float64 { return worst(all, .99) }

func worst(all []*samples, q float64) (most float64) {
	for _, s := range all {
		most = max(most, s.quantile(q))
	}
	return most
}

// ratio compares the medians of pairs of series that were taken in turn. To a
// series without a value nothing compares well.
func ratio(pairs []*samples) (most float64) {
	for i := 0; i+1 < len(pairs); i += 2 {
		to := pairs[i+1].quantile(.5)
		if math.IsInf(to, 1) {
			return to
		}
		most = max(most, pairs[i].quantile(.5)/to)
	}
	return most
}

// difference is by how much the median of the first of two series is more.
// To a series without a value nothing compares well.
func difference(pair []*samples) float64 {
	from := pair[1].quantile(.5)
	if math.IsInf(from, 1) {
		return from
	}
	return pair[0].quantile(.5) - from
}

// failures is the part of the samples that failed.
func failures(all []*samples) (most float64) {
	for _, s := range all {
		most = max(most, 1-s.success())
	}
	return most
}
