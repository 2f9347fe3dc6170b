package client

import (
	"context"
	"io"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Images prepares, finds and removes images.
type Images struct{ c *Client }

const bytesType = "application/octet-stream"

// List returns all images prepared on the server's host, by name.
func (im *Images) List(ctx context.Context) ([]dayfly.Image, error) {
	l, err := decode[rest.ImageList](im.c.rest.ListImages(ctx))
	return l.Images, err
}

// Get returns one image by name, reference or digest.
func (im *Images) Get(ctx context.Context, name string) (dayfly.Image, error) {
	return decode[dayfly.Image](im.c.rest.GetImage(ctx, name))
}

// Remove takes a name away; the file system goes with the last name of it.
func (im *Images) Remove(ctx context.Context, name string) error {
	return done(im.c.rest.RemoveImage(ctx, name))
}

// Pull fetches an image from a registry and prepares it. An empty platform is
// the server's own. The server's credentials are used, not the caller's.
func (im *Images) Pull(ctx context.Context, reference, platform string, report Report) (dayfly.Image, error) {
	resp, err := im.c.rest.PullImage(ctx, rest.PullImage{Reference: reference, Platform: platform})
	return awaitImage(report, resp, err)
}

// ImportOptions say how to take an archive. The zero value uses the archive's
// own names and the server's platform.
type ImportOptions struct {
	Name     string
	Platform string
}

// Import prepares the images of a docker save or OCI archive, plain or
// compressed, which is streamed to the server. It returns one for each name.
func (im *Images) Import(ctx context.Context, archive io.Reader, o ImportOptions, report Report) ([]dayfly.Image, error) {
	p := rest.ImportImageParams{Name: o.Name, Platform: o.Platform}
	resp, err := im.c.rest.ImportImageWithBody(ctx, &p, bytesType, justReader{archive})
	e, err := await(resp, err, report)
	if err == nil && e.Images == nil {
		err = errNoResult
	}
	return e.Images, err
}

// justReader hides a Close, which belongs to the caller.
type justReader struct{ io.Reader }

// Build makes an image from a recipe the server knows, such as "base".
func (im *Images) Build(ctx context.Context, recipe string, report Report) (dayfly.Image, error) {
	resp, err := im.c.rest.BuildImage(ctx, rest.BuildImage{Recipe: recipe})
	return awaitImage(report, resp, err)
}
