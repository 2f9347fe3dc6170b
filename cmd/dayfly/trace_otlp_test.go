//go:build otlp

package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/dayfly/dayfly"
)

// spanCollector takes spans in the manner of an OTLP collector.
type spanCollector struct {
	t     *testing.T
	mu    sync.Mutex
	spans map[string]*trace.Span
	about map[string]string // of whose they are
	asked map[string]string // headers
}

func (c *spanCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &req) != nil {
		c.t.Errorf("%s %s: %d bytes, %v", r.Method, r.URL.Path, len(body), err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.asked["key"] = r.Header.Get("X-Collector-Key")
	for _, rs := range req.GetResourceSpans() {
		for _, kv := range rs.GetResource().GetAttributes() {
			c.about[kv.GetKey()] = kv.GetValue().GetStringValue()
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, span := range ss.GetSpans() {
				c.spans[span.GetName()] = span
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// TestSpansReachACollector: a build with the exporter sends a start to where the
// environment says, in order, at the latest as it ends.
func TestSpansReachACollector(t *testing.T) {
	c := &spanCollector{t: t, spans: map[string]*trace.Span{}, about: map[string]string{}, asked: map[string]string{}}
	srv := httptest.NewServer(c)
	defer srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=secret")
	t.Setenv("OTEL_SERVICE_NAME", "dayfly-test")
	tracer, shutdown, err := newTracer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	starts := tracedStarts{instant{}, tracer}
	h := traced(tracer, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = starts.Start(r.Context(), dayfly.NewID())
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/workspaces/x/start", nil))
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, above := range map[string]string{"workspace.start": "POST", "image": "workspace.start", "init": "workspace.start", "clock": "init"} {
		if is, want := c.spans[name].GetParentSpanId(), c.spans[above].GetSpanId(); len(want) == 0 || string(is) != string(want) {
			t.Errorf("%s is below %x, not %s (%x)", name, is, above, want)
		}
	}
	if len(c.spans) != 5 || c.about["service.name"] != "dayfly-test" || c.asked["key"] != "secret" {
		t.Errorf("%d spans of %v, asked with %v", len(c.spans), c.about, c.asked)
	}
}

// TestCollectorThatIsAwayHoldsUpNothing: spans are lost, and the server works.
func TestCollectorThatIsAwayHoldsUpNothing(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
	tracer, shutdown, err := newTracer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tracedStarts{instant{}, tracer}).Start(t.Context(), dayfly.NewID()); err != nil {
		t.Error(err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Errorf("the end of the server: %v", err)
	}
}
