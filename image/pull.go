package image

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/dayfly/dayfly"
)

// PullOptions say how to pull.
type PullOptions struct {
	Platform string                // os/arch[/variant]; default linux/amd64
	Progress func(dayfly.Progress) // never called twice at the same time
	Insecure bool                  // allow plain HTTP, and TLS with a certificate nobody vouches for
}

// Pull gets an image from a registry. It asks the registry what a tag stands
// for each time, and downloads only what is not there yet. The error is
// NotFound for an image that is not there, Denied where the registry refuses,
// Unavailable where it cannot be reached, and Invalid for content that is not
// what its digest says.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (dayfly.Image, error) {
	img, err := s.pull(ctx, ref, o)
	return img, s.hostError("pull "+ref, within("pull "+ref, err))
}

func (s *Store) pull(ctx context.Context, ref string, o PullOptions) (dayfly.Image, error) {
	n, err := fullName(ref)
	if err != nil {
		return dayfly.Image{}, err
	}
	r, err := s.remote(ref, o)
	if err != nil {
		return dayfly.Image{}, err
	}
	defer r.close()
	desc, err := r.get(ctx, r.ref)
	if err != nil {
		return dayfly.Image{}, err
	}
	f, err := s.resolve(ctx, r, desc, o.Platform)
	if err != nil {
		return dayfly.Image{}, err
	}
	return s.prepare(ctx, f, n, &reporter{to: o.Progress})
}

// remoteContent is the content of a repository.
type remoteContent struct {
	ref    name.Reference
	puller *remote.Puller
	top    map[v1.Hash][]byte // manifests already here
	close  func()
}

func (s *Store) remote(ref string, o PullOptions) (remoteContent, error) {
	var nameOptions []name.Option
	done := func() {}
	rt := s.transport
	if rt == nil {
		rt = remote.DefaultTransport
	}
	if o.Insecure {
		nameOptions = append(nameOptions, name.Insecure)
		if t, ok := rt.(*http.Transport); ok {
			t = t.Clone()
			t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for by name
			rt, done = t, t.CloseIdleConnections
		}
	}
	parsed, err := name.ParseReference(ref, nameOptions...)
	if err != nil {
		return remoteContent{}, badName(ref, err)
	}
	options := []remote.Option{
		remote.WithTransport(rt), remote.WithAuthFromKeychain(s.keychain), remote.WithUserAgent("dayfly/" + dayfly.Version),
	}
	puller, err := remote.NewPuller(options...)
	return remoteContent{ref: parsed, puller: puller, top: map[v1.Hash][]byte{}, close: done}, err
}

// get fetches the manifest or index of a reference.
func (r remoteContent) get(ctx context.Context, ref name.Reference) (v1.Descriptor, error) {
	d, err := r.puller.Get(ctx, ref)
	if err != nil {
		return v1.Descriptor{}, r.error(ctx, err)
	}
	r.top[d.Digest] = d.Manifest
	return d.Descriptor, nil
}

func (r remoteContent) open(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	at := r.ref.Context().Digest(desc.Digest.String())
	if desc.MediaType.IsIndex() || desc.MediaType.IsImage() {
		if r.top[desc.Digest] == nil {
			if _, err := r.get(ctx, at); err != nil {
				return nil, err
			}
		}
	}
	if raw := r.top[desc.Digest]; raw != nil {
		return readCloser(raw), nil
	}
	l, err := r.puller.Layer(ctx, at)
	if err != nil {
		return nil, r.error(ctx, err)
	}
	rc, err := l.Compressed()
	if err != nil {
		return nil, r.error(ctx, err)
	}
	return &remoteBlob{rc, ctx.Err}, nil
}

// remoteBlob tells a download that broke off from one that was cancelled. Why it
// broke off, or failed the client library's own checks, changes nothing.
type remoteBlob struct {
	io.ReadCloser
	ended func() error // the context's Err
}

func (b *remoteBlob) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	if err := b.ended(); err != nil {
		return n, err
	}
	return n, io.ErrUnexpectedEOF
}

// error says what a registry's refusal, or its silence, means to a user.
func (r remoteContent) error(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host := r.ref.Context().RegistryStr()
	var refused *transport.Error
	var e *dayfly.Error
	switch {
	case !errors.As(err, &refused):
		e = dayfly.Errorf(dayfly.Unavailable, "the registry %s cannot be reached (%s): check the name and this host's network and proxy, "+
			"or import an archive instead (dayfly image import)", host, cause(err))
	case refused.StatusCode == http.StatusNotFound:
		e = dayfly.Errorf(dayfly.NotFound, "the registry %s has no %s: check the name and the tag", host, r.ref)
	case refused.StatusCode == http.StatusUnauthorized, refused.StatusCode == http.StatusForbidden:
		e = dayfly.Errorf(dayfly.Denied, "the registry %s refuses: either there is no such image, or it takes a login "+
			"(docker login %s writes the credentials that dayfly reads)", host, host)
	case refused.StatusCode == http.StatusTooManyRequests:
		e = dayfly.Errorf(dayfly.Unavailable, "the registry %s wants fewer requests: log in (docker login %s), or try again later", host, host)
	default:
		e = dayfly.Errorf(dayfly.Unavailable, "the registry %s answers %d %s: try again later",
			host, refused.StatusCode, http.StatusText(refused.StatusCode))
	}
	e.Err = err
	return e
}

// cause is the innermost reason of a failed request, without its address.
func cause(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return clip(err)
}
