package disk

import (
	"context"
	"crypto/aes"
	"io"

	"golang.org/x/crypto/xts"

	"github.com/dayfly/dayfly/keyring"
)

// BlockSize is the unit of encryption and of the file system, in bytes.
const BlockSize = 4096

// maxRun bounds the bytes encrypted and written at once.
const maxRun = 1 << 20

// writeEncrypted writes the blocks of s as dm-crypt would with cipher
// aes-xts-plain64 and the options sector_size:4096 iv_large_sectors: every
// block is one XTS data unit, and its tweak is the index of the block. One
// goroutine: two gained nothing measurable even on the largest disk.
func writeEncrypted(ctx context.Context, w io.WriterAt, s *seed, key *keyring.Key) error {
	c, err := xts.NewCipher(aes.NewCipher, key[:])
	if err != nil {
		return err
	}
	buf := make([]byte, 0, maxRun)
	for i := 0; i < len(s.index); i += len(buf) / BlockSize {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := s.run(i)
		buf = buf[:n*BlockSize]
		for j := range n {
			c.Encrypt(buf[j*BlockSize:(j+1)*BlockSize], s.block(i+j), s.index[i+j])
		}
		if _, err := w.WriteAt(buf, int64(s.index[i])*BlockSize); err != nil { // below MaxSize, checked when the seed was made or read
			return err
		}
	}
	return nil
}
