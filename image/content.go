package image

import (
	"context"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/dayfly/dayfly"
)

// content is where an image's blobs come from. What it reads is not verified.
type content interface {
	open(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error)
}

// layout is the content of an OCI image layout on disk.
type layout struct{ dir string }

func (l layout) open(_ context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(l.dir, "blobs", desc.Digest.Algorithm, desc.Digest.Hex))
	if os.IsNotExist(err) {
		return nil, missing(desc.Digest)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, dayfly.Errorf(dayfly.Invalid, "blob %s: is not a regular file", short(desc.Digest))
	}
	return f, nil
}

// sections is content inside one file: an archive's.
type sections map[v1.Hash]*io.SectionReader

func (s sections) open(_ context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	at, ok := s[desc.Digest]
	if !ok {
		return nil, missing(desc.Digest)
	}
	return io.NopCloser(io.NewSectionReader(at, 0, at.Size())), nil
}

func missing(h v1.Hash) error {
	return dayfly.Errorf(dayfly.Invalid, "blob %s is not there: the archive or layout is not complete", h)
}

// short is how people tell digests apart.
func short(h v1.Hash) string { return h.Hex[:min(12, len(h.Hex))] }

// mustHex decodes a digest, which parsing has checked.
func mustHex(h v1.Hash) []byte {
	b, _ := hex.DecodeString(h.Hex)
	return b
}
