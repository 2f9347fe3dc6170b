//go:build otlp

package main

import (
	"context"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/dayfly/dayfly"
)

// newTracer sends spans where OTEL_EXPORTER_OTLP_ENDPOINT and its companions
// say, by OTLP over HTTP. It is in builds with the tag otlp only: the exporter
// brings gRPC's code with it.
func newTracer(ctx context.Context) (trace.Tracer, func(context.Context) error, error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, nil, dayfly.Errorf(dayfly.Invalid, "traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithHost())
	if err != nil {
		return nil, nil, dayfly.Errorf(dayfly.Invalid, "traces: %w", err)
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	return p.Tracer(tracerName), p.Shutdown, nil
}
