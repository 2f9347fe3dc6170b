package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"testing"

	"github.com/dayfly/dayfly/keyring"
)

// TestBlocksAreEncryptedAsDmCryptDoes holds known answers that OpenSSL 3 gave
// for AES-256-XTS with data units of 4096 bytes (EVP_aes_256_xts, the tweak
// being the block's index as a little-endian number of 16 bytes: plain64).
// The key is the bytes 0 to 63; the plaintext of block n is the SHA-256 of
// (n as 8, i as 4 little-endian bytes) for i from 0 to 127.
func TestBlocksAreEncryptedAsDmCryptDoes(t *testing.T) {
	t.Parallel()
	var key keyring.Key
	for i := range key {
		key[i] = byte(i)
	}
	want := map[uint64]string{
		0:           "f183e45a3854e729f9688d3b42beadf9d0dd74ec238c53b2cb4cea30d68e8efb",
		1:           "ee614d351ea716f908bb5a5d42212f458a1472aea9bfe713ec2b268c26c4e4b5",
		255:         "3da23ffa37ff49545b606dd036617960a186da54578722a5b18fdb9749ae9a38",
		0x102030405: "beb2cb761ede75581c494a10320bc59c6ddd56188816bbf16f8f9b32f7b09eec",
	}
	s := &seed{index: []uint64{0, 1, 255, 0x102030405}} // the first two make one run
	for _, n := range s.index {
		s.data = append(s.data, knownPlaintext(n)...)
	}
	got := recorder{}
	if err := writeEncrypted(t.Context(), got, s, &key); err != nil {
		t.Fatal(err)
	}
	for n, sum := range want {
		if got[n] != sum {
			t.Errorf("block %#x: ciphertext has SHA-256 %s, want %s", n, got[n], sum)
		}
	}
}

func knownPlaintext(n uint64) []byte {
	var b []byte
	for i := range uint32(BlockSize / sha256.Size) {
		in := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(nil, n), i)
		sum := sha256.Sum256(in)
		b = append(b, sum[:]...)
	}
	return b
}

// recorder is an io.WriterAt that keeps the hash of every block by its index.
type recorder map[uint64]string

var _ io.WriterAt = recorder{}

func (r recorder) WriteAt(b []byte, off int64) (int, error) {
	for i := 0; i < len(b); i += BlockSize {
		sum := sha256.Sum256(b[i : i+BlockSize])
		r[uint64(off+int64(i))/BlockSize] = hex.EncodeToString(sum[:])
	}
	return len(b), nil
}
