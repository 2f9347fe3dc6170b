package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// A seed file is a header (magic, version, size of the file system, block
// size, number of blocks), the block numbers, the blocks, and the CRC-32C of
// all that; integers are big-endian. See docs/formats/seed.md.
const (
	seedMagic   = "dayfly-seed\n"
	seedVersion = 1
	seedHeader  = len(seedMagic) + 4 + 8 + 4 + 4
	seedTrailer = 4

	// maxBlocks bounds a seed to 32 MiB; that of the largest disk has 557 blocks.
	maxBlocks   = 8 << 10
	maxSeedFile = int64(seedHeader + maxBlocks*(8+BlockSize) + seedTrailer)
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errSeed    = errors.New("not a whole seed file")
)

func (s *seed) encode() []byte {
	b := make([]byte, 0, seedHeader+len(s.index)*8+len(s.data)+seedTrailer)
	b = append(b, seedMagic...)
	b = binary.BigEndian.AppendUint32(b, seedVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(s.size)) // never negative
	b = binary.BigEndian.AppendUint32(b, BlockSize)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.index))) // at most maxBlocks
	for _, n := range s.index {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, s.data...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeSeed reads what encode writes and refuses anything else. The result
// shares memory with b.
func decodeSeed(b []byte) (*seed, error) {
	if len(b) < seedHeader+seedTrailer || !bytes.HasPrefix(b, []byte(seedMagic)) {
		return nil, errSeed
	}
	h := b[len(seedMagic):]
	version, size := binary.BigEndian.Uint32(h), binary.BigEndian.Uint64(h[4:])
	blockSize, count := binary.BigEndian.Uint32(h[12:]), int(binary.BigEndian.Uint32(h[16:]))
	switch {
	case version != seedVersion || blockSize != BlockSize:
		return nil, fmt.Errorf("%w: version %d, blocks of %d bytes", errSeed, version, blockSize)
	case size == 0 || size > MaxSize || size%BlockSize != 0:
		return nil, fmt.Errorf("%w: size %d", errSeed, size)
	case count == 0 || count > maxBlocks || len(b) != seedHeader+count*(8+BlockSize)+seedTrailer:
		return nil, fmt.Errorf("%w: %d blocks in %d bytes", errSeed, count, len(b))
	}
	body, sum := b[:len(b)-seedTrailer], b[len(b)-seedTrailer:]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return nil, fmt.Errorf("%w: checksum", errSeed)
	}
	s := &seed{size: int64(size), index: make([]uint64, count), data: body[seedHeader+count*8:]}
	for i := range s.index {
		s.index[i] = binary.BigEndian.Uint64(body[seedHeader+i*8:])
		if s.index[i] >= size/BlockSize || i > 0 && s.index[i] <= s.index[i-1] {
			return nil, fmt.Errorf("%w: block number %d", errSeed, s.index[i])
		}
	}
	return s, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%w: %d bytes", errSeed, st.Size())
	}
	b := make([]byte, st.Size())
	_, err = io.ReadFull(f, b)
	return b, err
}
