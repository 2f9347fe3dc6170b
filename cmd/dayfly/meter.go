package main

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dayfly/dayfly"
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

// request takes one answered request. Route is the pattern, not the path.
func (m *meter) request(route string, status int, seconds float64) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(seconds)
}

// ServeHTTP answers with all of it in Prometheus' text format.
func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
