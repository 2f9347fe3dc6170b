package disk

import (
	"context"
	"crypto/aes"
	"fmt"
	"os"

	"golang.org/x/crypto/xts"

	"github.com/dayfly/dayfly/keyring"
)

// Content is what a disk holds, decrypted: the blocks that were ever written.
// Create makes other disks of it, each under a key of its own. It is read-only,
// and as secret as the disk was.
type Content struct{ seed *seed }

// Capture reads a disk of size bytes, of which nobody may write meanwhile. It is
// for disks that hold little; a file longer than the disk is a larger device.
func Capture(ctx context.Context, path string, size int64, key *keyring.Key) (*Content, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, captureError(err)
	}
	defer f.Close()
	s, err := writtenBlocks(f, size)
	if err != nil {
		return nil, captureError(err)
	}
	if len(s.index) > maxBlocks {
		return nil, captureError(fmt.Errorf("%d blocks are written, more than %d", len(s.index), maxBlocks))
	}
	c, err := xts.NewCipher(aes.NewCipher, key[:])
	if err != nil {
		return nil, captureError(err)
	}
	for i, n := range s.index {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.Decrypt(s.block(i), s.block(i), n)
	}
	return &Content{s}, nil
}

func captureError(err error) error { return fmt.Errorf("disk: capture: %w", err) }

// Encode returns the content as a seed file: docs/formats/seed.md.
func (c *Content) Encode() []byte { return c.seed.encode() }

// DecodeContent reads what Encode returned, and refuses anything else. It keeps b.
func DecodeContent(b []byte) (*Content, error) {
	s, err := decodeSeed(b)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	return &Content{s}, nil
}
