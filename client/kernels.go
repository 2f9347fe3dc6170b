package client

import (
	"context"
	"io"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Kernels finds and adds guest kernels.
type Kernels struct{ c *Client }

// List returns the kernels the server's host can boot, the preferred one first.
func (k *Kernels) List(ctx context.Context) ([]dayfly.Kernel, error) {
	l, err := decode[rest.KernelList](k.c.rest.ListKernels(ctx))
	return l.Kernels, err
}

// Import takes a kernel and its modules from a Debian package, which is
// streamed to the server.
func (k *Kernels) Import(ctx context.Context, deb io.Reader, report Report) (dayfly.Kernel, error) {
	resp, err := k.c.rest.ImportKernelWithBody(ctx, bytesType, justReader{deb})
	return awaitKernel(report, resp, err)
}

// Build compiles the tuned kernel on the server's host, which takes minutes
// unless it is there already.
func (k *Kernels) Build(ctx context.Context, report Report) (dayfly.Kernel, error) {
	resp, err := k.c.rest.BuildKernel(ctx)
	return awaitKernel(report, resp, err)
}
