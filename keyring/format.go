package keyring

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/dayfly/dayfly"
)

// A key file is magic, version and length of the wrapped key (big-endian
// uint16 each), the wrapped key, and the CRC-32C of all that (big-endian). The
// checksum guards against accidents only, and lets a damaged file be told from
// one that another master key made. See docs/formats/key.md.
const (
	magic       = "dayfly-key\n"
	fileVersion = 1
	headerLen   = len(magic) + 4
	trailerLen  = 4

	// maxWrapped bounds what a wrapper may return and a file may hold; the key
	// management services in use return less than 1 KiB for 64 bytes.
	maxWrapped = 4 << 10
	maxFile    = int64(headerLen + maxWrapped + trailerLen)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encode(wrapped []byte) ([]byte, error) {
	if len(wrapped) == 0 || len(wrapped) > maxWrapped {
		return nil, dayfly.Errorf(dayfly.Internal, "the master key's wrapper returned %d bytes: it must be 1 to %d", len(wrapped), maxWrapped)
	}
	b := append(make([]byte, 0, headerLen+len(wrapped)+trailerLen), magic...)
	b = binary.BigEndian.AppendUint16(b, fileVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(len(wrapped))) // at most maxWrapped, checked above
	b = append(b, wrapped...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

func decode(b []byte) ([]byte, error) {
	if len(b) < headerLen+trailerLen || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, fmt.Errorf("not a key file: %w", ErrCorrupted)
	}
	if v := binary.BigEndian.Uint16(b[len(magic):]); v != fileVersion {
		return nil, fmt.Errorf("key file of version %d, this release reads %d: %w", v, fileVersion, ErrCorrupted)
	}
	n := int(binary.BigEndian.Uint16(b[len(magic)+2:]))
	body, sum := b[:len(b)-trailerLen], b[len(b)-trailerLen:]
	if n == 0 || n > maxWrapped || len(body) != headerLen+n {
		return nil, fmt.Errorf("key file of %d bytes holds %d: %w", len(b), n, ErrCorrupted)
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sum) {
		return nil, fmt.Errorf("key file checksum: %w", ErrCorrupted)
	}
	return body[headerLen:], nil
}
