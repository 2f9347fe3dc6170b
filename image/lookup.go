package image

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"os"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
)

// Lookup returns an image by its name, its reference, or the unique beginning
// of its digest. The error is NotFound, and says how to get the image, where
// there is none, and Conflict where the beginning is not unique.
func (s *Store) Lookup(ctx context.Context, name string) (dayfly.Image, error) {
	r, err := s.find(ctx, name)
	if err != nil {
		return dayfly.Image{}, s.hostError("look up image "+name, err)
	}
	img, err := s.load(r.Name, r.hex())
	if errors.Is(err, fs.ErrNotExist) {
		err = s.gone(name)
	}
	return img, s.hostError("look up image "+name, err)
}

// gone is a name whose image was removed under it.
func (s *Store) gone(name string) error {
	return dayfly.Errorf(dayfly.NotFound, "the image %q was removed: get it again (dayfly image pull, import or build)", name)
}

// List returns every name and its image, by name, then the images that have no
// name any more, because it moved on to another one.
func (s *Store) List(ctx context.Context) ([]dayfly.Image, error) {
	named, err := s.records()
	if err != nil {
		return nil, s.hostError("list images", err)
	}
	hexes, err := s.hexes()
	if err != nil {
		return nil, s.hostError("list images", err)
	}
	seen := map[string]bool{}
	for _, r := range named {
		seen[r.hex()] = true
	}
	for _, hex := range hexes {
		if !seen[hex] {
			named = append(named, record{Digest: "sha256:" + hex})
		}
	}
	images := []dayfly.Image{}
	for _, r := range named {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		img, err := s.load(r.Name, r.hex())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed in between
		}
		if err != nil {
			s.log.Warn("image left out of the list", "image", r.Digest, "err", err)
			continue
		}
		images = append(images, img)
	}
	return images, nil
}

// Lease is the right to use an image's root file system: until Close, or the
// end of the process, the image cannot be removed.
type Lease struct {
	Image dayfly.Image
	Path  string // the read-only file of the root file system, a raw ext4

	file *os.File
}

// Lease finds an image as Lookup does and holds it.
func (s *Store) Lease(ctx context.Context, name string) (*Lease, error) {
	img, err := s.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	path := s.rootfs(img.Digest[len("sha256:"):])
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.gone(name)
	}
	if err != nil {
		return nil, s.hostError("lease image "+name, err)
	}
	err = flock.Try(f, unix.LOCK_SH)
	if errors.Is(err, flock.ErrHeld) || err == nil && !same(f, path) {
		err = s.gone(name) // a removal holds the lock or has been here
	}
	if err != nil {
		f.Close()
		return nil, s.hostError("lease image "+name, err)
	}
	return &Lease{Image: img, Path: path, file: f}, nil
}

// Close gives the lease back. It may be repeated, but not at the same time.
func (l *Lease) Close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
