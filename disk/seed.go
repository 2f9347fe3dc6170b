package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
)

// seed is an empty ext4 of one size: the blocks mke2fs wrote, zero ones among
// them, and where they belong. It holds no secret. A seed is read-only.
type seed struct {
	size  int64    // of the file system, in bytes
	index []uint64 // block numbers, ascending
	data  []byte   // BlockSize bytes for every index
}

func (s *seed) block(i int) []byte { return s.data[i*BlockSize : (i+1)*BlockSize] }

// run returns how many blocks from the i-th on are neighbours, at most maxRun bytes.
func (s *seed) run(i int) int {
	n := 1
	for i+n < len(s.index) && s.index[i+n] == s.index[i]+uint64(n) && n < maxRun/BlockSize {
		n++
	}
	return n
}

const (
	seedSuffix = ".seed"
	tempPrefix = ".seed-"

	// maxSeeds bounds the cache: callers choose sizes freely. The seed made
	// longest ago goes first.
	maxSeeds = 64

	// staleAfter is the age at which an unfinished seed has lost its maker:
	// making one takes well under a second.
	staleAfter = 10 * time.Minute
)

// making keeps one process from making the same seed twice at once, by path.
// Two processes may: the second replaces the first's by one as good.
var making singleflight.Group

// seed returns the seed for size, from the cache where it has a whole one.
// A cache that cannot be written costs time and a line in the log, no more.
func (o Options) seed(ctx context.Context, size int64) (*seed, error) {
	if o.Seeds == "" {
		return mkfs(ctx, size)
	}
	path := filepath.Join(o.Seeds, fmt.Sprintf("ext4-v%d-%d%s", recipe, size, seedSuffix))
	s, err := readSeed(path, size)
	if err == nil {
		return s, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		o.log().WarnContext(ctx, "seed unusable, making it anew", "path", path, "err", err)
	}
	v, err, _ := making.Do(path, func() (any, error) { return o.make(ctx, path, size) })
	if err != nil {
		return nil, err
	}
	return v.(*seed), nil
}

func (o Options) make(ctx context.Context, path string, size int64) (*seed, error) {
	if s, err := readSeed(path, size); err == nil {
		return s, nil // made while this call was on its way here
	}
	began := time.Now()
	s, err := mkfs(context.WithoutCancel(ctx), size) // others may wait for it; it has a deadline of its own
	if err != nil {
		return nil, err
	}
	o.log().InfoContext(ctx, "seed made", "path", path, "blocks", len(s.index), "took", time.Since(began))
	if err := s.write(path); err != nil {
		o.log().WarnContext(ctx, "seed not cached", "path", path, "err", err)
	}
	prune(o.Seeds)
	return s, nil
}

func readSeed(path string, size int64) (*seed, error) {
	b, err := readBounded(path, maxSeedFile)
	if err != nil {
		return nil, err
	}
	s, err := decodeSeed(b)
	if err == nil && s.size != size {
		err = fmt.Errorf("%w: it is for %d bytes", errSeed, s.size)
	}
	return s, err
}

// write puts the seed at path, whole or not at all.
func (s *seed) write(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(s.encode())
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// prune removes unfinished seeds that killed processes left, and the oldest
// whole ones beyond maxSeeds. A file that is just being read stays readable.
func prune(dir string) {
	entries, _ := os.ReadDir(dir) // nothing to prune where there is nothing to list
	type seedFile struct {
		name string
		made time.Time
	}
	var seeds []seedFile
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		switch {
		case strings.HasSuffix(e.Name(), seedSuffix):
			seeds = append(seeds, seedFile{e.Name(), info.ModTime()})
		case strings.HasPrefix(e.Name(), tempPrefix) && time.Since(info.ModTime()) > staleAfter:
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next prune tries again
		}
	}
	slices.SortFunc(seeds, func(a, b seedFile) int { return b.made.Compare(a.made) })
	for _, s := range seeds[min(maxSeeds, len(seeds)):] {
		_ = os.Remove(filepath.Join(dir, s.name))
	}
}
