package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/dayfly/dayfly"
)

// verified reads a blob and holds it to its descriptor: the error at the end,
// or as soon as it is too long, says how it differs.
type verified struct {
	from io.Reader
	desc v1.Descriptor
	hash hash.Hash
	read int64
}

func verify(from io.Reader, desc v1.Descriptor) (*verified, error) {
	h, err := v1.Hasher(desc.Digest.Algorithm)
	if err != nil || desc.Size < 0 {
		return nil, dayfly.Errorf(dayfly.Invalid, "blob %s of %d bytes: not a valid descriptor", desc.Digest, desc.Size)
	}
	return &verified{from: from, desc: desc, hash: h}, nil
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.from.Read(p)
	v.read += int64(n)
	v.hash.Write(p[:n])
	if v.read > v.desc.Size {
		return 0, dayfly.Errorf(dayfly.Invalid, "blob %s: is longer than the %d bytes its manifest says", short(v.desc.Digest), v.desc.Size)
	}
	if err == nil {
		return n, nil
	}
	whole := v.read == v.desc.Size
	switch {
	case whole && !bytes.Equal(v.hash.Sum(nil), mustHex(v.desc.Digest)):
		// The client library checks too, with an error of its own at this point.
		return 0, dayfly.Errorf(dayfly.Invalid, "blob %s: its content has another digest: it was changed or damaged on its way", v.desc.Digest)
	case err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF):
		return n, err
	case !whole:
		return 0, &truncated{desc: v.desc, read: v.read}
	}
	return n, io.EOF
}

// truncated is a blob that ended early. From a registry it may be worth asking
// again.
type truncated struct {
	desc v1.Descriptor
	read int64
}

func (t *truncated) Error() string {
	return fmt.Sprintf("blob %s: ends after %d of %d bytes", short(t.desc.Digest), t.read, t.desc.Size)
}

// readBlob reads a small blob, such as a manifest, and verifies it.
func (s *Store) readBlob(ctx context.Context, c content, desc v1.Descriptor) ([]byte, error) {
	if desc.Size > s.limits.ManifestBytes {
		return nil, exceeded("blob "+short(desc.Digest), "manifest bytes", desc.Size, s.limits.ManifestBytes)
	}
	rc, err := c.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	v, err := verify(rc, desc)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(v)
}

// unpacked reads what a stream holds once decompressed, within limits.
type unpacked struct {
	in     *counted
	out    io.Reader
	close  func()
	limits Limits
	most   int64  // bytes
	limit  string // which limit that is
	read   int64
}

// The first bytes of the formats: RFC 1952 and RFC 8878.
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// zstdWindow bounds the memory a stream may ask for. The format's encoders use
// 8 MiB, and 128 MiB at their highest setting.
const zstdWindow = 128 << 20

// unpack decompresses at most so many bytes. It finds out by its first bytes how a stream
// is compressed: media types are wrong too often, and both formats are certain.
func (s *Store) unpack(from io.Reader, most int64, limit string) (*unpacked, error) {
	u := &unpacked{in: &counted{from: from}, limits: s.limits, most: most, limit: limit, close: func() {}}
	buf := bufio.NewReaderSize(u.in, 64<<10)
	magic, err := buf.Peek(len(zstdMagic))
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		z, err := gzip.NewReader(buf)
		if err != nil {
			return nil, u.blame(begun(err))
		}
		u.out = z
	case isZstd(magic):
		z, err := zstd.NewReader(buf, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, u.blame(begun(err))
		}
		u.out, u.close = z, z.Close
	default:
		u.out = buf
	}
	return u, nil
}

func isZstd(magic []byte) bool {
	skippable := len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18})
	return skippable || bytes.HasPrefix(magic, zstdMagic)
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.out.Read(p)
	u.read += int64(n)
	if u.read > u.most {
		return 0, exceeded("unpacked data", u.limit, "more", u.most)
	}
	if u.read > u.limits.RatioFloor && u.read > u.in.read*u.limits.Ratio {
		return 0, exceeded("unpacked data", "compression ratio", u.read/max(1, u.in.read), u.limits.Ratio)
	}
	return n, u.blame(err)
}

// begun makes the end of a stream an error where it should begin.
func begun(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// blame tells damaged data from a source that failed.
func (u *unpacked) blame(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case u.in.err != nil && !errors.Is(u.in.err, io.EOF):
		return u.in.err
	}
	return dayfly.Errorf(dayfly.Invalid, "the compressed data is damaged: %s", clip(err))
}

// counted counts what is read and remembers how it ended.
type counted struct {
	from io.Reader
	read int64
	err  error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.read += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// watched ends a read when ctx does, and tells how far it is.
type watched struct {
	ended func() error // the context's Err
	from  io.Reader
	tell  func(n int)
}

func (w *watched) Read(p []byte) (int, error) {
	if err := w.ended(); err != nil {
		return 0, err
	}
	n, err := w.from.Read(p)
	w.tell(n)
	return n, err
}
