package snapshot

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"runtime"

	"github.com/dayfly/dayfly/keyring"
)

const (
	keyLen    = 32
	saltLen   = 32
	nonceLen  = 12
	tagLen    = 16
	digestLen = 2 * sha256.Size // in hexadecimal
)

type salt [saltLen]byte

// keys are derived from the workspace's key and a generation's salt, one for
// each use. The salt is fresh and random, so no key is ever used for two
// generations, and a counter is nonce enough.
type keys struct {
	salt                         salt
	ram, state, manifest, digest [keyLen]byte
}

func derive(key *keyring.Key, s salt) (*keys, error) {
	k := &keys{salt: s}
	for _, use := range []struct {
		info string
		to   *[keyLen]byte
	}{
		{"dayfly snapshot 1 ram", &k.ram},
		{"dayfly snapshot 1 state", &k.state},
		{"dayfly snapshot 1 manifest", &k.manifest},
		{"dayfly snapshot 1 digest", &k.digest},
	} {
		sub, err := hkdf.Key(sha256.New, key[:], s[:], use.info, keyLen)
		if err != nil {
			return nil, fmt.Errorf("snapshot: derive key: %w", err)
		}
		copy(use.to[:], sub)
		clear(sub)
	}
	return k, nil
}

func (k *keys) clear() {
	for _, sub := range []*[keyLen]byte{&k.ram, &k.state, &k.manifest, &k.digest} {
		clear(sub[:])
	}
	runtime.KeepAlive(k)
}

// sealer encrypts and authenticates the pieces of one file. Its methods may be
// called at the same time.
type sealer struct {
	aead cipher.AEAD
	salt salt
}

func newSealer(key *[keyLen]byte, s salt) (*sealer, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("snapshot: cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("snapshot: cipher: %w", err)
	}
	return &sealer{aead, s}, nil
}

// The pieces that are sealed. The name is part of the additional data.
const (
	chunkPiece = "ram\n"
	indexPiece = "index\n"
	statePiece = "state\n"
)

// seal appends the sealed plain to dst; dst may be plain[:0]. A number is used
// once for each key: chunks count from 0, the index comes after the last one.
func (s *sealer) seal(dst, plain []byte, piece string, number uint64) []byte {
	nonce, bound := s.bind(piece, number)
	return s.aead.Seal(dst, nonce[:], plain, bound)
}

// open decrypts what seal made, in place. What is not authentic is cleared.
func (s *sealer) open(sealed []byte, piece string, number uint64) ([]byte, error) {
	nonce, bound := s.bind(piece, number)
	return s.aead.Open(sealed[:0], nonce[:], sealed, bound)
}

func (s *sealer) bind(piece string, number uint64) (nonce [nonceLen]byte, bound []byte) {
	binary.BigEndian.PutUint64(nonce[nonceLen-8:], number)
	bound = append(append(make([]byte, 0, 64), piece...), s.salt[:]...)
	return nonce, binary.BigEndian.AppendUint64(bound, number)
}

// digester starts the keyed digest of the file of that name.
func (k *keys) digester(name string) hash.Hash {
	h := hmac.New(sha256.New, k.digest[:])
	h.Write([]byte(name + "\n")) // a hash never returns an error
	return h
}

// digestOf returns the keyed digest of a file's parts.
func (k *keys) digestOf(name string, parts ...[]byte) string {
	h := k.digester(name)
	for _, p := range parts {
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (k *keys) mac(b []byte) []byte {
	h := hmac.New(sha256.New, k.manifest[:])
	h.Write(b)
	return h.Sum(nil)
}

// same compares digests in a time that says nothing of where they differ.
func same(a, b string) bool { return hmac.Equal([]byte(a), []byte(b)) }
