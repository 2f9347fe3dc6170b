package snapshot

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/keyring"
)

// Generation is a committed generation, open for reading. All its methods may
// be called at the same time, Close excepted.
type Generation struct {
	dir    string
	keys   *keys
	body   *body
	closed atomic.Bool
}

// Open reads and authenticates the manifest of the generation at dir and makes
// sure that its files are there and have their sizes; contents are looked at
// when they are used. The key may be cleared when Open has returned. Its
// errors tell apart NotFound, ErrDamaged, ErrWrongKey and ErrNewer.
func Open(dir string, key *keyring.Key) (*Generation, error) {
	dir = filepath.Clean(dir)
	text, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	k, b, err := parseManifest(text, key)
	if err != nil {
		return nil, err
	}
	g := &Generation{dir: dir, keys: k, body: b}
	if err := g.checkFiles(); err != nil {
		k.clear()
		return nil, err
	}
	return g, nil
}

func readManifest(dir string) ([]byte, error) {
	f, err := openFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, dayfly.Errorf(dayfly.NotFound, "there is no such snapshot: it was never made, or it was deleted")
		}
		return nil, damaged("manifest", "missing")
	} else if err != nil {
		return nil, readError("the snapshot's manifest", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1)) // longer ones are refused by their length
	if err != nil {
		return nil, readError("the snapshot's manifest", err)
	}
	return text, nil
}

func (g *Generation) checkFiles() error {
	want := slices.Clone(g.body.Files)
	for _, d := range g.body.Disks {
		want = append(want, stored{Name: d.Name, Size: d.Size})
	}
	for _, s := range want {
		st, err := os.Lstat(g.path(s.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return damaged(s.Name, "missing")
		case err != nil:
			return readError("the snapshot's "+s.Name, err)
		case !st.Mode().IsRegular():
			return damaged(s.Name, "not a regular file")
		case st.Size() != s.Size:
			return damaged(s.Name, "%d bytes, not %d", st.Size(), s.Size)
		}
	}
	return nil
}

func (g *Generation) path(name string) string { return filepath.Join(g.dir, name) }

func (g *Generation) usable() error {
	if g.closed.Load() {
		return dayfly.Errorf(dayfly.Conflict, "the snapshot was closed: open it again")
	}
	return nil
}

// Manifest returns what the generation holds.
func (g *Generation) Manifest() Manifest {
	m := g.body.Manifest
	m.Config, m.Disks = slices.Clone(m.Config), slices.Clone(m.Disks)
	return m
}

// DiskPath returns the path of layer i of the disk. The file is shared with
// other generations and never written.
func (g *Generation) DiskPath(i int) string { return g.path(g.body.Disks[i].Name) }

// VerifyDisks reads the layers of the disk and compares their digests. Holes
// are not read.
func (g *Generation) VerifyDisks(ctx context.Context) error {
	if err := g.usable(); err != nil {
		return err
	}
	for _, d := range g.body.Disks {
		if err := g.verify(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (g *Generation) verify(ctx context.Context, d Disk) error {
	f, err := g.open(d.Name, d.Size)
	if err != nil {
		return err
	}
	defer f.Close()
	digest, err := g.keys.diskDigest(ctx, d.Name, f, d.Size)
	if err != nil {
		return readError("the snapshot's "+d.Name, err)
	}
	if !same(digest, d.Digest) {
		return damaged(d.Name, "digest")
	}
	return nil
}

// Close forgets the keys. It is called after the other methods have returned,
// and may be called again.
func (g *Generation) Close() error {
	if !g.closed.Swap(true) {
		g.keys.clear()
	}
	return nil
}
