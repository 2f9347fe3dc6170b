package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
)

// meter is what a server measures of itself, for Prometheus. No label holds what
// callers choose: their number is bounded.
type meter struct {
	registry *prometheus.Registry
	stages   *prometheus.HistogramVec
	requests *prometheus.HistogramVec
}

// newMeter makes a meter. More are the collectors of the parts.
func newMeter(more ...prometheus.Collector) *meter {
	m := &meter{
		registry: prometheus.NewRegistry(),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dayfly_start_stage_seconds",
			Help: "Time that a stage of a start took, by kind of start; stage total is all of it.",
			// From a claim's stages to a cold start under emulation.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .2, .3, .5, 1, 2, 5, 10, 30, 90},
		}, []string{"kind", "stage"}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dayfly_http_request_seconds",
			Help:    "Time until a request was answered, by route and status; streams count until their end.",
			Buckets: prometheus.DefBuckets,
		}, []string{"route", "status"}),
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dayfly_build_info", Help: "1, with the version as its label.",
		ConstLabels: prometheus.Labels{"version": dayfly.Version},
	}, func() float64 { return 1 })
	m.registry.MustRegister(append(more, m.stages, m.requests, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
	return m
}

// stage takes the time of one stage of a start, in milliseconds.
func (m *meter) stage(kind dayfly.StartKind, stage string, ms float64) {
	m.stages.WithLabelValues(string(kind), stage).Observe(ms / 1000)
}

// watch adds what control counts.
func (m *meter) watch(c *control.Control) { m.registry.MustRegister(controlled{c}) }

// controlled is control as a collector.
type controlled struct{ c *control.Control }

var (
	workspacesDesc  = prometheus.NewDesc("dayfly_workspaces", "Workspaces, by state.", []string{"state"}, nil)
	startingDesc    = prometheus.NewDesc("dayfly_starts_under_way", "Starts that have a place.", nil, nil)
	waitingDesc     = prometheus.NewDesc("dayfly_starts_waiting", "Starts that wait for a place.", nil, nil)
	refusedDesc     = prometheus.NewDesc("dayfly_starts_refused_total", "Starts for which there was no room to wait.", nil, nil)
	failedDesc      = prometheus.NewDesc("dayfly_starts_failed_total", "Starts that failed.", nil, nil)
	storeErrorsDesc = prometheus.NewDesc("dayfly_store_errors_total", "Answers of the database that were errors.", nil, nil)
)

// Describe sends what there is to collect.
func (controlled) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{workspacesDesc, startingDesc, waitingDesc, refusedDesc, failedDesc, storeErrorsDesc} {
		ch <- d
	}
}

// Collect sends it as it is now.
func (c controlled) Collect(ch chan<- prometheus.Metric) {
	s := c.c.Stats()
	for state, n := range s.Workspaces {
		ch <- prometheus.MustNewConstMetric(workspacesDesc, prometheus.GaugeValue, float64(n), string(state))
	}
	ch <- prometheus.MustNewConstMetric(startingDesc, prometheus.GaugeValue, float64(s.Starting))
	ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(s.Waiting))
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(s.Refused))
	ch <- prometheus.MustNewConstMetric(failedDesc, prometheus.CounterValue, float64(s.Failed))
	ch <- prometheus.MustNewConstMetric(storeErrorsDesc, prometheus.CounterValue, float64(s.StoreErrors))
}

// request takes one answered request. Route is the pattern, not the path.
func (m *meter) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

// ServeHTTP answers with all of it in Prometheus' text format.
func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
