package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
)

// Remove takes a name away, and the image with its last name. By digest it
// removes the image with all its names. It returns the bytes of disk that were
// freed, and a Conflict while the image is leased.
func (s *Store) Remove(ctx context.Context, name string) (freed int64, err error) {
	freed, err = s.removeNamed(ctx, name)
	return freed, s.hostError("remove image "+name, err)
}

func (s *Store) removeNamed(ctx context.Context, name string) (int64, error) {
	for {
		r, err := s.find(ctx, name)
		if err != nil {
			return 0, err
		}
		l, err := lockFile(ctx, s.path(locksDir, r.hex()))
		if err != nil {
			return 0, err
		}
		// The name may have moved on before its image was locked.
		if now, err := s.find(ctx, name); err != nil || now != r {
			l.release()
			continue
		}
		defer l.release()
		return s.remove(r, name)
	}
}

// remove removes under the image's lock.
func (s *Store) remove(r record, name string) (int64, error) {
	all, err := s.records()
	if err != nil {
		return 0, err
	}
	var names []record
	for _, o := range all {
		if o.Digest == r.Digest {
			names = append(names, o)
		}
	}
	if r.Key != "" && len(names) > 1 {
		return 0, os.Remove(s.nameFile(r.Key))
	}
	f, size, err := s.claim(r.hex(), name)
	if err != nil {
		return 0, err
	}
	if f != nil {
		defer f.Close()
	}
	// The names go first: killed in between, this leaves an image without one,
	// which can still be listed and removed.
	for _, n := range names {
		if err := os.Remove(s.nameFile(n.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	return size, s.drop(r.hex())
}

// claim locks an image against leases; the file is nil if there is no image.
func (s *Store) claim(hex, name string) (*os.File, int64, error) {
	f, err := os.Open(s.rootfs(hex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	err = flock.Try(f, unix.LOCK_EX)
	if errors.Is(err, flock.ErrHeld) {
		err = dayfly.Errorf(dayfly.Conflict, "the image %q is in use by a workspace: delete that first (dayfly ls, dayfly rm)", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	var size int64
	if info, err := f.Stat(); err == nil {
		size = info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return f, size, nil
}

// drop removes an image's files, the root file system first: without it there
// is no image, only leftovers for Sweep.
func (s *Store) drop(hex string) error {
	for _, file := range []string{s.rootfs(hex), s.path(manifestsDir, hex+".json"), s.path(configsDir, hex+".json")} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(s.path(rootfsDir))
}

// Sweep removes what killed processes left behind: scratch directories nobody
// holds, and manifests and names whose root file system never came or is gone.
// It leaves alone what a living process works on.
func (s *Store) Sweep(ctx context.Context) error {
	err := errors.Join(s.sweepScratch(ctx), s.sweepRecords(ctx))
	return s.hostError("sweep the image store", err)
}

func (s *Store) sweepScratch(ctx context.Context) error {
	entries, err := os.ReadDir(s.path(tempDir))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	var errs []error
	for _, e := range entries {
		dir := s.path(tempDir, strings.TrimSuffix(e.Name(), lockSuffix))
		if seen[dir] || ctx.Err() != nil {
			continue
		}
		seen[dir] = true
		l, err := tryLockFile(dir + lockSuffix)
		if errors.Is(err, flock.ErrHeld) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t := &scratch{dir, l, s.log}
		errs = append(errs, t.clear())
		s.log.Info("leftover removed", "dir", filepath.Base(dir))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// sweepRecords looks at every digest that anything is known of.
func (s *Store) sweepRecords(ctx context.Context) error {
	known := map[string]bool{}
	for _, dir := range []string{manifestsDir, configsDir, locksDir} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			known[strings.TrimSuffix(e.Name(), ".json")] = true
		}
	}
	names, err := s.records()
	if err != nil {
		return err
	}
	for _, r := range names {
		known[r.hex()] = true
	}
	var errs []error
	for hex := range known {
		if ctx.Err() == nil && isHex(hex, sha256Hex) {
			errs = append(errs, s.sweepDigest(hex))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (s *Store) sweepDigest(hex string) error {
	l, err := tryLockFile(s.path(locksDir, hex))
	if errors.Is(err, flock.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.release()
	if _, err := os.Lstat(s.rootfs(hex)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names, err := s.records()
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.hex() == hex {
			if err := os.Remove(s.nameFile(n.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return s.drop(hex)
}
