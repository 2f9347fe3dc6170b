package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/image/layer"
)

// prepare makes sure that an image's root file system exists and that a name
// leads to it. Whoever comes second waits for the first and finds it done.
func (s *Store) prepare(ctx context.Context, f *found, n naming, report *reporter) (dayfly.Image, error) {
	l, err := tryLockFile(s.path(locksDir, f.hex))
	if errors.Is(err, flock.ErrHeld) {
		report.step("wait for the same image", 0)
		l, err = lockFile(ctx, s.path(locksDir, f.hex))
	}
	if err != nil {
		return dayfly.Image{}, s.hostError("lock image "+f.hex[:12], err)
	}
	defer l.release()
	_, err = os.Stat(s.rootfs(f.hex))
	if errors.Is(err, fs.ErrNotExist) {
		err = s.build(ctx, f, report)
	}
	if err != nil {
		return dayfly.Image{}, s.hostError("prepare image "+n.display, err)
	}
	if err := s.setName(n, f.hex); err != nil {
		return dayfly.Image{}, s.hostError("name image "+n.display, err)
	}
	return s.load(n.display, f.hex)
}

// build unpacks the layers and makes the root file system. The caller holds
// the image's lock.
func (s *Store) build(ctx context.Context, f *found, report *reporter) error {
	if os.Geteuid() != 0 {
		return dayfly.Errorf(dayfly.Denied, "unpacking an image takes the rights of root, for owners and devices: run as root")
	}
	t, err := s.scratch()
	if err != nil {
		return err
	}
	defer t.remove()
	root, err := layer.Create(t.path("root"), s.limits.Limits, s.log)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := s.applyAll(ctx, root, f, t, report); err != nil {
		return err
	}
	if err := root.MountPoints(); err != nil {
		return err
	}
	report.step("root file system", 0)
	if err := s.makeRootfs(ctx, t.path("root"), t.path("rootfs.ext4")); err != nil {
		return err
	}
	return s.commit(f, t.path("rootfs.ext4"))
}

// applyAll applies the layers, oldest first.
func (s *Store) applyAll(ctx context.Context, root *layer.Root, f *found, t *scratch, report *reporter) error {
	if r, ok := f.content.(remoteContent); ok {
		fetched, stop := s.fetch(ctx, r, f.layers, t, report)
		defer stop()
		f.content = fetched
	}
	left := s.limits.ImageBytes
	for i := range f.layers {
		if err := s.apply(ctx, root, f, i, &left, report); err != nil {
			return within(fmt.Sprintf("layer %d of %d", i+1, len(f.layers)), s.blobError(err))
		}
	}
	return nil
}

// apply verifies, decompresses and applies layer i. What it unpacks is taken
// from left.
func (s *Store) apply(ctx context.Context, root *layer.Root, f *found, i int, left *int64, report *reporter) error {
	desc := f.layers[i]
	rc, err := f.content.open(ctx, desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	blob, err := verify(&watched{ctx.Err, rc, report.step("unpack "+short(desc.Digest), desc.Size)}, desc)
	if err != nil {
		return err
	}
	most, limit := s.limits.LayerBytes, "layer bytes"
	if *left < most {
		most, limit = *left, "image bytes"
	}
	plain, err := s.unpack(blob, most, limit)
	if err != nil {
		return err
	}
	defer plain.close()
	diff := sha256.New()
	tar := io.TeeReader(plain, diff)
	if err := root.Apply(ctx, tar); err != nil {
		return err
	}
	// Both digests cover what follows the archive's end, too.
	for _, rest := range []io.Reader{tar, blob} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return err
		}
	}
	*left -= plain.read
	if got := hex.EncodeToString(diff.Sum(nil)); got != f.diffIDs[i].Hex {
		return dayfly.Errorf(dayfly.Invalid, "unpacked content has the digest sha256:%s and the image's config says %s", got, f.diffIDs[i])
	}
	return nil
}

// commit moves an image into the store. The root file system goes last: once
// it is there, everything is.
func (s *Store) commit(f *found, rootfs string) error {
	if err := s.write(s.path(manifestsDir, f.hex+".json"), f.manifest); err != nil {
		return err
	}
	if err := s.write(s.path(configsDir, f.hex+".json"), f.config); err != nil {
		return err
	}
	return rename(rootfs, s.rootfs(f.hex))
}
