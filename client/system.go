package client

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// System says what is on the disk of the server's host.
type System struct{ c *Client }

// Usage returns what there is on the disk, by kind.
func (s *System) Usage(ctx context.Context) ([]dayfly.Usage, error) {
	l, err := decode[rest.UsageList](s.c.rest.GetUsage(ctx))
	return l.Usage, err
}

// Prune removes what can be made again and returns what that gave back, by kind.
func (s *System) Prune(ctx context.Context) ([]dayfly.Usage, error) {
	l, err := decode[rest.UsageList](s.c.rest.Prune(ctx))
	return l.Usage, err
}
