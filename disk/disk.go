// Package disk makes the private disks of workspaces and removes them.
//
// A disk is a sparse raw file that holds an encrypted, empty ext4 from the
// first moment, so that nothing is formatted while a guest starts: the few
// blocks of an empty file system are kept as a seed, one for every size, and
// are encrypted into the new file with the disk's own key. Making a large disk
// costs what a small one costs.
//
// The host never writes plaintext to a disk, and cannot read one without its
// key; package keyring keeps that, and losing it is the wipe. Callers own
// names and lifetimes. Nothing here needs root or a device.
package disk

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/keyring"
)

// The sizes a disk may have, in bytes. A size is a multiple of BlockSize.
const (
	MinSize = dayfly.MinDiskMiB << 20
	MaxSize = dayfly.MaxDiskMiB << 20
)

// Options are what Create needs besides the disk itself. The zero value works.
type Options struct {
	Seeds string // directory that caches seeds, made when missing; "": a seed is made anew for every disk
	// Content is what the disk holds; its size must be the disk's. Default: an
	// empty file system.
	Content *Content

	Log *slog.Logger // of seeds made, and of a cache that does not work; nil: nowhere
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// Create makes at path, which must not exist, a sparse file of size bytes that
// decrypts under key to an empty ext4, as the mapping in docs/formats/seed.md.
// If it fails it leaves nothing there. It may be called many times at once.
//
// The file is not flushed: a disk whose making a power cut interrupts belongs
// to a workspace that nobody was told of.
func Create(ctx context.Context, path string, size int64, key *keyring.Key, o Options) error {
	if size < MinSize || size > MaxSize || size%BlockSize != 0 {
		return dayfly.Errorf(dayfly.Invalid, "disk of %d bytes: use %d to %d, a multiple of %d", size, int64(MinSize), int64(MaxSize), BlockSize)
	}
	if key == nil || *key == (keyring.Key{}) {
		return dayfly.Errorf(dayfly.Internal, "disk without a key: make one with the keyring first")
	}
	s, err := o.content(ctx, size)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return createError(err)
	}
	err = f.Truncate(size)
	if err == nil {
		err = writeEncrypted(ctx, f, s, key)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return createError(errors.Join(err, os.Remove(path)))
	}
	return nil
}

func (o Options) content(ctx context.Context, size int64) (*seed, error) {
	if o.Content == nil {
		return o.seed(ctx, size)
	}
	if o.Content.seed.size != size {
		return nil, dayfly.Errorf(dayfly.Internal, "the content is of a disk of %d bytes, not %d", o.Content.seed.size, size)
	}
	return o.Content.seed, nil
}

func createError(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no space left on this host for the disk: delete workspaces or images, or enlarge the state directory's file system", Err: err}
	case errors.Is(err, fs.ErrExist):
		return &dayfly.Error{Kind: dayfly.Conflict, Msg: "the workspace has a disk already: delete the workspace before making its disk anew", Err: err}
	case errors.Is(err, syscall.EFBIG):
		return &dayfly.Error{Kind: dayfly.Invalid, Msg: "the state directory's file system does not hold files as large as this disk: ask for a smaller one", Err: err}
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "the disk cannot be made: see the log", Err: err}
}

// Wipe removes the disk at path for good; a missing one is fine. What may stay
// on the medium is ciphertext: forget the key first (keyring.Ring.Forget), and
// an interrupted wipe leaves a file that nobody can read.
func Wipe(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return &dayfly.Error{Kind: dayfly.Internal, Msg: "the disk cannot be removed: delete the workspace again", Err: err}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
