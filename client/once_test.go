package client_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// TestEveryCreationSendsItsKeyOrNone: an empty header would be refused.
func TestEveryCreationSendsItsKeyOrNone(t *testing.T) {
	t.Parallel()
	var sent []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Values("Idempotency-Key")
		_, _ = io.WriteString(w, "{}")
	}))
	defer srv.Close()
	c, err := client.New(client.Options{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, make := range map[string]func(context.Context, ...client.Option) error{
		"fork": func(ctx context.Context, o ...client.Option) error {
			_, err := c.Workspaces.Fork(ctx, "w", 1, o...)
			return err
		},
		"snapshot": func(ctx context.Context, o ...client.Option) error {
			_, err := c.Snapshots.Create(ctx, "w", "", o...)
			return err
		},
		"key": func(ctx context.Context, o ...client.Option) error {
			_, _, err := c.Keys.Create(ctx, dayfly.Key{}, o...)
			return err
		},
		"namespace": func(ctx context.Context, o ...client.Option) error {
			_, err := c.Namespaces.Create(ctx, dayfly.Namespace{}, o...)
			return err
		},
		"webhook": func(ctx context.Context, o ...client.Option) error {
			_, err := c.Webhooks.Create(ctx, dayfly.Webhook{}, o...)
			return err
		},
	} {
		if err := make(t.Context()); err != nil || len(sent) != 0 {
			t.Errorf("%s: %q, %v", name, sent, err)
		}
		if err := make(t.Context(), client.Once("")); err != nil || len(sent) != 0 {
			t.Errorf("%s with an empty key: %q, %v", name, sent, err)
		}
		if err := make(t.Context(), client.Once("k")); err != nil || !slices.Equal(sent, []string{"k"}) {
			t.Errorf("%s once: %q, %v", name, sent, err)
		}
	}
}
