package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dayfly/dayfly"
)

// Usage returns how many bytes on disk the files in dir take, and how many of
// them removing dir would free: those of files that have no link elsewhere.
// Blocks that a reflink shares count as if they were not shared.
func Usage(dir string) (apparent, exclusive int64, err error) {
	type inode struct{ dev, ino uint64 }
	type found struct {
		bytes       int64
		links, here uint64
	}
	all := map[inode]*found{}
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		id := inode{sys.Dev, sys.Ino}
		if all[id] == nil {
			all[id] = &found{bytes: sys.Blocks * 512, links: uint64(sys.Nlink)} //nolint:unconvert // 32 bits wide on some platforms
		}
		all[id].here++
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, dayfly.Errorf(dayfly.NotFound, "there is no such snapshot: it was never made, or it was deleted")
	} else if err != nil {
		return 0, 0, readError("the snapshot", err)
	}
	for _, f := range all {
		apparent += f.bytes
		if f.here >= f.links {
			exclusive += f.bytes
		}
	}
	return apparent, exclusive, nil
}

// Remove removes the generation at dir, whole, damaged or half. A dir that is
// not there is fine. Killed at any moment it leaves what still opens whole or
// what Sweep removes. Disk layers that other generations have stay theirs.
func Remove(dir string) error { return remove(host{}, filepath.Clean(dir)) }

func remove(on files, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := on.Remove(filepath.Join(dir, manifestName))
	if err == nil {
		err = on.Sync(dir) // before any other file goes
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// A directory in the manifest's place, or a dir that is a file: whatever
		// this is, it does not open, and going on is what removing means.
		if !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EISDIR) {
			return removeError(err)
		}
	}
	if err := on.RemoveAll(dir); err != nil {
		return removeError(err)
	}
	if err := on.Sync(filepath.Dir(dir)); err != nil {
		return removeError(err)
	}
	return nil
}

func removeError(err error) error {
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "the snapshot could not be removed: see the log, and delete it again", Err: err}
}

// Sweep removes what killed processes left in parent: unfinished generations,
// and directories without a manifest, of which a Remove did not get to its
// end. Parent holds generations and nothing else, and nobody writes or removes
// one while it is swept. A parent that is not there is fine.
func Sweep(parent string) error { return sweep(host{}, filepath.Clean(parent)) }

func sweep(on files, parent string) error {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return readError("the directory of snapshots", err)
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if !e.IsDir() || !strings.HasPrefix(e.Name(), tempPrefix) && hasManifest(dir) {
			continue
		}
		errs = append(errs, remove(on, dir))
	}
	return errors.Join(errs...)
}

// hasManifest is in doubt true: what cannot be looked at is not removed.
func hasManifest(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, manifestName))
	return !errors.Is(err, fs.ErrNotExist)
}
