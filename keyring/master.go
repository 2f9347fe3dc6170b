package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dayfly/dayfly"
)

// MasterFile is the name of the master key in the directory given to Open.
const MasterFile = "master.key"

const (
	masterLen    = 32
	masterPrefix = "dayfly-master-1:" // then base64 of the key and a newline
	maxMaster    = 256                // bytes of the file: four times what version 1 needs
	openAttempts = 5                  // each but the first means another process got in between
)

// Open returns a ring whose keys are wrapped by the master key in dir, and
// makes that key, and dir, on first use. Processes that do so at the same time
// end up with the same key. A key file that others can read, or that belongs
// to another user, is refused with the command that mends it.
func Open(dir string) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, writeError("the directory of the master key", err)
	}
	path := filepath.Join(dir, MasterFile)
	for range openAttempts {
		m, err := loadMaster(path)
		if err == nil {
			return New(m), settle(dir, path)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// That it exists, or that its unfinished file was swept, means that
		// another process was first: its key is read on the next turn.
		err = writeNew(path, newMaster())
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return nil, writeError("the master key", err)
		}
	}
	return nil, dayfly.Errorf(dayfly.Internal, "%s keeps disappearing: another process deletes it", path)
}

// settle makes sure that the key just read outlives a power cut even if its
// maker has not got that far, and removes what killed makers left. They are
// not overwritten: such a name may be a second link to the key itself.
func settle(dir, path string) error {
	for _, left := range temps(path) {
		_ = os.Remove(left)
	}
	if err := syncDir(dir); err != nil {
		return writeError("the directory of the master key", err)
	}
	return nil
}

func newMaster() []byte {
	var key [masterLen]byte
	_, _ = rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	return []byte(masterPrefix + base64.StdEncoding.EncodeToString(key[:]) + "\n")
}

func loadMaster(path string) (*master, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if err != nil {
		return nil, dayfly.Errorf(dayfly.Internal, "master key: %w", err)
	}
	if err := checkOwner(path, st); err != nil {
		return nil, err
	}
	content, err := readBounded(path, maxMaster)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(content)), masterPrefix)
	key, decodeErr := base64.StdEncoding.DecodeString(text)
	if err != nil || !ok || decodeErr != nil || len(key) != masterLen {
		return nil, dayfly.Errorf(dayfly.Internal, "%s is not a master key of version 1: put it back from a backup; without it no disk of this state directory can be opened", path)
	}
	return newWrapper(key)
}

func checkOwner(path string, st os.FileInfo) error {
	if !st.Mode().IsRegular() {
		return dayfly.Errorf(dayfly.Denied, "%s is not a regular file: a master key must be one", path)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return dayfly.Errorf(dayfly.Denied, "%s can be read by others (mode %04o): run chmod 600 %s, and think of the key as known to them", path, st.Mode().Perm(), path)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return dayfly.Errorf(dayfly.Denied, "%s belongs to user %d, this process is user %d: run chown %d %s", path, sys.Uid, os.Geteuid(), os.Geteuid(), path)
	}
	return nil
}

// master wraps with AES-256-GCM. What it returns is a version byte, the first
// bytes of the master key's fingerprint, a random nonce and the sealed secret;
// the context is the additional data. Random 96-bit nonces are safe for 2^32
// secrets under one key (NIST SP 800-38D, 8.3), and a workspace makes one.
type master struct {
	aead        cipher.AEAD
	fingerprint [printLen]byte
}

const (
	wrapVersion = 1
	printLen    = 8
	nonceLen    = 12
	wrapHeader  = 1 + printLen + nonceLen
)

func newWrapper(key []byte) (*master, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	// The fingerprint only tells keys apart; its label keeps it from being the
	// hash of the key that anything else might use.
	sum := sha256.Sum256(append([]byte("dayfly master key fingerprint\n"), key...))
	return &master{aead: aead, fingerprint: [printLen]byte(sum[:printLen])}, nil
}

// Wrap implements KeyWrapper.
func (m *master) Wrap(_ context.Context, plain []byte, keyContext string) ([]byte, error) {
	b := append([]byte{wrapVersion}, m.fingerprint[:]...)
	var nonce [nonceLen]byte
	_, _ = rand.Read(nonce[:]) // never fails: crypto/rand ends the process instead
	b = append(b, nonce[:]...)
	return m.aead.Seal(b, nonce[:], plain, []byte(keyContext)), nil
}

// Unwrap implements KeyWrapper.
func (m *master) Unwrap(_ context.Context, wrapped []byte, keyContext string) ([]byte, error) {
	if len(wrapped) < wrapHeader || wrapped[0] != wrapVersion {
		return nil, fmt.Errorf("not wrapped by a master key file: %w", ErrCorrupted)
	}
	if [printLen]byte(wrapped[1:]) != m.fingerprint {
		return nil, ErrWrongMaster
	}
	nonce := wrapped[1+printLen : wrapHeader]
	plain, err := m.aead.Open(nil, nonce, wrapped[wrapHeader:], []byte(keyContext))
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", ErrCorrupted)
	}
	return plain, nil
}
