package client

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Host says what the server and its host are.
type Host struct{ c *Client }

// Checks tries out what the host can do. It may take seconds.
func (h *Host) Checks(ctx context.Context) ([]dayfly.Check, error) {
	r, err := decode[rest.Host](h.c.rest.GetHost(ctx))
	return r.Checks, err
}

// Version returns the release the server was built from.
func (h *Host) Version(ctx context.Context) (string, error) {
	r, err := decode[rest.Version](h.c.rest.GetVersion(ctx))
	return r.Version, err
}

// Ready returns nil if the server can place workspaces, else why it cannot.
func (h *Host) Ready(ctx context.Context) error {
	return done(h.c.rest.Readyz(ctx))
}
