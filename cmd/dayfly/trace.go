package main

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
)

// tracerName is what our spans say they are made by.
const tracerName = "github.com/dayfly/dayfly"

// traced makes a span of every request, below the caller's if it sends a W3C
// traceparent. Ids of workspaces are not in a span's name, but in its attributes.
func traced(tracer trace.Tracer, next http.Handler) http.Handler {
	var w3c propagation.TraceContext
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("url.path", r.URL.Path)))
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// tracedStarts are workspaces whose starts are spans, with the stages of the
// timeline below them.
type tracedStarts struct {
	api.Workspaces
	tracer trace.Tracer
}

func (t tracedStarts) Create(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error) {
	return t.span(ctx, "create", func(ctx context.Context) (dayfly.Workspace, error) { return t.Workspaces.Create(ctx, spec, o) })
}

func (t tracedStarts) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return t.span(ctx, "start", func(ctx context.Context) (dayfly.Workspace, error) { return t.Workspaces.Start(ctx, id) })
}

func (t tracedStarts) Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return t.span(ctx, "restart", func(ctx context.Context) (dayfly.Workspace, error) { return t.Workspaces.Restart(ctx, id) })
}

func (t tracedStarts) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return t.span(ctx, "resume", func(ctx context.Context) (dayfly.Workspace, error) { return t.Workspaces.Resume(ctx, id) })
}

func (t tracedStarts) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	return t.span(ctx, "rollback", func(ctx context.Context) (dayfly.Workspace, error) { return t.Workspaces.Rollback(ctx, id, ref) })
}

func (t tracedStarts) span(ctx context.Context, name string, do func(context.Context) (dayfly.Workspace, error)) (dayfly.Workspace, error) {
	ctx, span := t.tracer.Start(ctx, "workspace."+name)
	defer span.End()
	ws, err := do(ctx)
	if err != nil {
		span.SetStatus(codes.Error, string(dayfly.KindOf(err))) // the message may name what is a caller's own
		return ws, err
	}
	span.SetAttributes(
		attribute.String("dayfly.workspace", string(ws.ID)),
		attribute.String("dayfly.start_kind", string(ws.StartKind)),
		attribute.String("dayfly.accel", string(ws.Accel)),
	)
	t.stages(ctx, time.Now(), ws.Timeline)
	return ws, nil
}

// stages makes the spans of a start that ended just now. The parts of a stage
// are below it, one level deep, as the timeline has them.
func (t tracedStarts) stages(ctx context.Context, ended time.Time, line dayfly.Timeline) {
	began := ended.Add(-milliseconds(line.Total()))
	above := map[string]context.Context{}
	for _, s := range line {
		parent, ok := above[s.Within]
		if !ok {
			parent = ctx
		}
		from := began.Add(milliseconds(s.At))
		below, span := t.tracer.Start(parent, s.Name, trace.WithTimestamp(from))
		span.End(trace.WithTimestamp(from.Add(milliseconds(s.Took))))
		above[s.Name] = below
	}
}

func milliseconds(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }
