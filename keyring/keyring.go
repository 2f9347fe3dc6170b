// Package keyring keeps the keys of workspaces: it makes them, keeps them on
// disk only wrapped, hands them out, and forgets them for good.
//
// It leaves to others what a key is for and where its file lies. A key in the
// clear exists only in memory; its file is useless without the master key that
// wrapped it and the context (the workspace's id) it was wrapped for. A file is
// whole or not there, and once Forget has returned nothing can unwrap it: that
// is how a disk is wiped. docs/formats/key.md describes both kinds of file.
package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
)

// What Load finds wrong with a key, for errors.Is.
var (
	ErrNotFound    = errors.New("no such key")                      // never made, or forgotten
	ErrWrongMaster = errors.New("wrapped by another master key")    // the file is whole; this ring cannot open it
	ErrCorrupted   = errors.New("the key file is damaged or faked") // or it belongs to another context
)

// KeyWrapper encrypts small secrets under a master key it keeps to itself: a
// key management service, an HSM, or the file behind Open. The context is
// bound to the result: Unwrap must refuse any other. Where it can tell, Unwrap
// reports ErrWrongMaster and ErrCorrupted; other errors mean that it could not
// be asked. Both methods may be called at the same time.
type KeyWrapper interface {
	Wrap(ctx context.Context, plain []byte, context string) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte, context string) ([]byte, error)
}

// Ring makes, loads and forgets keys. Its methods may be called at the same
// time; calls for one path are the caller's to keep apart.
type Ring struct{ wrapper KeyWrapper }

// New returns a ring whose keys are wrapped by w.
func New(w KeyWrapper) *Ring { return &Ring{wrapper: w} }

// Create makes a fresh random key and writes it, wrapped, to path with mode
// 0600. When it returns, the file survives a power cut. A path that exists is
// a Conflict and stays as it is: overwriting a key is losing a disk.
func (r *Ring) Create(ctx context.Context, path, keyContext string) (*Key, error) {
	key := new(Key)
	_, _ = rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	if err := r.write(ctx, path, keyContext, key); err != nil {
		key.Clear()
		return nil, err
	}
	return key, nil
}

// Adopt writes a key that another file holds already to path as well, wrapped
// for a context of its own, as for the fork of a workspace. It promises what
// Create does. The key stays the caller's to clear.
func (r *Ring) Adopt(ctx context.Context, path, keyContext string, key *Key) error {
	return r.write(ctx, path, keyContext, key)
}

func (r *Ring) write(ctx context.Context, path, keyContext string, key *Key) error {
	wrapped, err := r.wrapper.Wrap(ctx, key[:], keyContext)
	if err != nil {
		return &dayfly.Error{Kind: dayfly.KindOf(err), Msg: "the workspace's key could not be wrapped by the master key", Err: err}
	}
	content, err := encode(wrapped)
	if err != nil {
		return err
	}
	if err := writeNew(path, content); errors.Is(err, fs.ErrExist) {
		return &dayfly.Error{Kind: dayfly.Conflict, Msg: "the workspace has a key already: delete the workspace before making its disk anew", Err: err}
	} else if err != nil {
		return writeError("the workspace's key", err)
	}
	return nil
}

// Load reads and unwraps the key at path. Its errors tell apart what an
// operator must do: ErrNotFound, ErrWrongMaster and ErrCorrupted.
func (r *Ring) Load(ctx context.Context, path, keyContext string) (*Key, error) {
	content, err := readBounded(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dayfly.Errorf(dayfly.NotFound, "the workspace's key is gone and its disk cannot be opened: %w", ErrNotFound)
	} else if err != nil {
		return nil, &dayfly.Error{Kind: dayfly.Internal, Msg: "the workspace's key cannot be read: see the log", Err: err}
	}
	if isShredded(content) {
		return nil, dayfly.Errorf(dayfly.NotFound, "the workspace's key was forgotten and its disk cannot be opened: %w", ErrNotFound)
	}
	wrapped, err := decode(content)
	if err != nil {
		return nil, loadError(err)
	}
	plain, err := r.wrapper.Unwrap(ctx, wrapped, keyContext)
	if err != nil {
		return nil, loadError(err)
	}
	defer clear(plain)
	key := new(Key)
	if copy(key[:], plain) != len(key) || len(plain) != len(key) {
		key.Clear()
		return nil, loadError(ErrCorrupted)
	}
	return key, nil
}

func loadError(err error) error {
	switch {
	case errors.Is(err, ErrWrongMaster):
		return dayfly.Errorf(dayfly.Unavailable, "the workspace's key was %w: put back the master.key it was made with", ErrWrongMaster)
	case errors.Is(err, ErrCorrupted):
		return &dayfly.Error{Kind: dayfly.Internal, Msg: "the workspace's key cannot be used: put its file back from a backup, or delete the workspace", Err: err}
	}
	return &dayfly.Error{Kind: dayfly.KindOf(err), Msg: "the workspace's key could not be unwrapped by the master key", Err: err}
}

// Forget makes the key at path unusable for good: its bytes are overwritten
// and flushed before the name goes, so that neither a leftover link nor an
// undeleted block gives them back where the file system writes in place. On
// copy-on-write storage the old bytes may survive, still wrapped: there the
// promise rests on the master key. A missing file is fine.
func (r *Ring) Forget(path string) error {
	for _, name := range append(temps(path), path) {
		if err := shred(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &dayfly.Error{Kind: dayfly.Internal, Msg: "the workspace's key could not be forgotten: delete the workspace again", Err: err}
		}
	}
	if err := syncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &dayfly.Error{Kind: dayfly.Internal, Msg: "the workspace's key could not be forgotten durably: delete the workspace again", Err: err}
	}
	return nil
}

// isShredded reports whether a process died, or the host did, when it forgot the
// key in a file. Shredding begins with the first byte.
func isShredded(content []byte) bool {
	return len(content) >= len(magic) && len(bytes.Trim(content[:len(magic)], "\x00")) == 0
}

func shred(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, min(st.Size(), maxFile)), 0)
	if err != nil && !isFull(err) { // where writing takes space, the old bytes would stay anyway
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Remove(path)
}
