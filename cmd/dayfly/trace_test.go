package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
)

// instant starts workspaces at once, and says that it took longer.
type instant struct{ api.Workspaces }

func (instant) Start(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return dayfly.Workspace{ID: id, StartKind: dayfly.Claim, Timeline: dayfly.Timeline{
		{Name: "image", At: 0, Took: 10}, {Name: "init", At: 10, Took: 30}, {Name: "clock", At: 12, Took: 5, Within: "init"},
	}}, nil
}

// TestStagesOfAStartAreSpans, each below what it is a part of, in the caller's
// own trace.
func TestStagesOfAStartAreSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	tracer := sdk.NewTracerProvider(sdk.WithSyncer(spans)).Tracer(tracerName)
	starts := tracedStarts{instant{}, tracer}
	h := traced(tracer, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = starts.Start(r.Context(), dayfly.NewID())
	}))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/workspaces/x/start", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	h.ServeHTTP(httptest.NewRecorder(), r)

	by := map[string]tracetest.SpanStub{}
	for _, s := range spans.GetSpans() {
		by[s.Name] = s
		if id := s.SpanContext.TraceID().String(); id != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s is in trace %s", s.Name, id)
		}
	}
	for name, parent := range map[string]string{"workspace.start": "POST", "image": "workspace.start", "init": "workspace.start", "clock": "init"} {
		if by[name].Parent.SpanID() != by[parent].SpanContext.SpanID() || !by[name].SpanContext.IsValid() {
			t.Errorf("%s is not below %s", name, parent)
		}
	}
	if by["POST"].Parent.SpanID().String() != "b7ad6b7169203331" {
		t.Error("the request is not below the caller's span")
	}
	if d := by["init"].EndTime.Sub(by["init"].StartTime); d != 30*time.Millisecond {
		t.Errorf("init took %s", d)
	}
	if !by["clock"].StartTime.After(by["init"].StartTime) {
		t.Error("clock began before init")
	}
}
