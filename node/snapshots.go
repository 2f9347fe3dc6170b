package node

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/snapshot"
)

// A snapshot is a directory of its own: its generation, and a wrap of its own of
// the key. Nothing in it is anybody else's but the bytes of the disk's layers,
// which the file system keeps for as long as one has a link to them.
const generationDir = "generation"

// Snapshot keeps a running workspace as it is at one instant; it goes on.
func (n *Node) Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error) {
	if err := dayfly.CheckSnapshotName(name); err != nil {
		return dayfly.Snapshot{}, err
	}
	if name != "" {
		held, err := n.holdName(ctx, name)
		if err != nil {
			return dayfly.Snapshot{}, err
		}
		defer held.release()
	}
	if err := n.nameIsFree(ctx, name); err != nil {
		return dayfly.Snapshot{}, err
	}
	p, err := n.photograph(ctx, id)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	defer n.discard(p)
	return n.keep(ctx, p, name)
}

// holdName keeps others, also in other processes, from making a snapshot of that
// name meanwhile. The lock is that of an id made of the name, so that a sweep
// removes what a dead process leaves of it.
func (n *Node) holdName(ctx context.Context, name string) (*lock, error) {
	sum := sha256.Sum256([]byte("snapshot " + name))
	text := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	held, err := lockWithin(ctx, n.Dir, dayfly.ID("w"+text[:len(dayfly.NewID())-1]), flock.Moment)
	if dayfly.KindOf(err) == dayfly.Conflict {
		return nil, dayfly.Errorf(dayfly.Conflict, "a snapshot named %q is being made already: choose another name", name)
	}
	return held, err
}

func (n *Node) nameIsFree(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if _, err := n.GetSnapshot(ctx, name); dayfly.KindOf(err) != dayfly.NotFound {
		return errors.Join(err, dayfly.Errorf(dayfly.Conflict, "there is a snapshot named %q already: choose another name, or delete it first (dayfly snapshot rm %s)", name, name))
	}
	return nil
}

// keep writes a photo to the disk, under a lock like that of a workspace, so
// that a sweep leaves it alone until it is done.
func (n *Node) keep(ctx context.Context, p *photo, name string) (_ dayfly.Snapshot, err error) {
	id := dayfly.NewID()
	lock, err := lockNew(n.Dir, id)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	defer lock.release()
	dir := n.snapshotDir(id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return dayfly.Snapshot{}, noSpace(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.removeSnapshot(id))
		}
	}()
	if err := n.Keys.Adopt(ctx, filepath.Join(dir, keyFile), string(id), p.key); err != nil {
		return dayfly.Snapshot{}, err
	}
	meta, err := metaOf(string(id), p.made, generationConfig{Workspace: p.of, Name: name, PausedMS: float64(p.stood.Microseconds()) / 1e3})
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	m, err := writeGeneration(ctx, filepath.Join(dir, generationDir), p, meta)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	if err := errors.Join(syncPath(dir), syncPath(filepath.Dir(dir))); err != nil {
		return dayfly.Snapshot{}, err
	}
	n.Log.Info("snapshot made", "snapshot", id, "workspace", p.of.ID, "ram", m.RAM.Stored)
	return n.describe(id, m)
}

func writeGeneration(ctx context.Context, dir string, p *photo, meta snapshot.Meta) (_ snapshot.Manifest, err error) {
	w, err := snapshot.Create(dir, p.key)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Abort())
		}
	}()
	if err := w.State(ctx, p.state); err != nil {
		return snapshot.Manifest{}, err
	}
	fi, err := p.memory.Stat()
	if err != nil {
		return snapshot.Manifest{}, err
	}
	if err := w.RAM(ctx, p.memory, fi.Size(), extents(p.pages)); err != nil {
		return snapshot.Manifest{}, err
	}
	layers, err := chain(p.home.dir)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	if err := addLayers(ctx, w, layers); err != nil {
		return snapshot.Manifest{}, err
	}
	return w.Commit(ctx, meta)
}

// describe returns what callers see of a snapshot.
func (n *Node) describe(id dayfly.ID, m snapshot.Manifest) (dayfly.Snapshot, error) {
	c, err := configOf(m)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	_, free, err := snapshot.Usage(filepath.Join(n.snapshotDir(id), generationDir))
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	s := dayfly.Snapshot{
		ID: id, Name: c.Name, Workspace: c.Workspace.ID, CreatedAt: m.CreatedAt, Spec: c.Workspace.Spec, Image: c.Workspace.Image,
		Kernel: m.Machine.Kernel, Accel: dayfly.Accel(m.Machine.Accel), RAMBytes: m.RAM.Stored, FreeBytes: free, PausedMS: c.PausedMS,
	}
	for _, d := range m.Disks {
		s.DiskBytes += d.Allocated
	}
	return s, nil
}

// Snapshots lists all snapshots of this host, oldest first. One that cannot be
// read is left out, and the log says why.
func (n *Node) Snapshots(ctx context.Context) ([]dayfly.Snapshot, error) {
	ents, err := os.ReadDir(filepath.Join(n.Dir, "snapshots"))
	if err != nil {
		return nil, err
	}
	list := []dayfly.Snapshot{}
	for _, e := range ents {
		id, err := dayfly.ParseID(e.Name())
		if err != nil {
			continue
		}
		from, s, err := n.openSnapshotID(ctx, id)
		if dayfly.KindOf(err) == dayfly.NotFound {
			continue // just being made, or just deleted
		}
		if err != nil {
			n.Log.Warn("snapshot cannot be read", "snapshot", id, "err", err)
			continue
		}
		from.close()
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b dayfly.Snapshot) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return list, nil
}

// GetSnapshot finds a snapshot by its id or name.
func (n *Node) GetSnapshot(ctx context.Context, ref string) (dayfly.Snapshot, error) {
	if id, err := dayfly.ParseID(ref); err == nil {
		from, s, err := n.openSnapshotID(ctx, id)
		if err == nil {
			from.close()
		}
		return s, err
	}
	list, err := n.Snapshots(ctx)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	for _, s := range list {
		if s.Name == ref && ref != "" {
			return s, nil
		}
	}
	return dayfly.Snapshot{}, noSnapshot(ref)
}

func noSnapshot(ref string) error {
	return dayfly.Errorf(dayfly.NotFound, "there is no snapshot %q (see: dayfly snapshot ls)", ref)
}

// openSnapshot finds and opens a snapshot. The caller closes the origin.
func (n *Node) openSnapshot(ctx context.Context, ref string) (*origin, dayfly.Snapshot, error) {
	id, err := dayfly.ParseID(ref)
	if err != nil {
		s, err := n.GetSnapshot(ctx, ref)
		if err != nil {
			return nil, s, err
		}
		id = s.ID
	}
	return n.openSnapshotID(ctx, id)
}

func (n *Node) openSnapshotID(ctx context.Context, id dayfly.ID) (*origin, dayfly.Snapshot, error) {
	dir := n.snapshotDir(id)
	if _, err := os.Lstat(filepath.Join(dir, generationDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, dayfly.Snapshot{}, noSnapshot(string(id))
	}
	key, err := n.Keys.Load(ctx, filepath.Join(dir, keyFile), string(id))
	if err != nil {
		return nil, dayfly.Snapshot{}, err
	}
	from, err := openOrigin(filepath.Join(dir, generationDir), key)
	if err != nil {
		return nil, dayfly.Snapshot{}, err
	}
	from.kind = dayfly.FromSnapshot
	s, err := n.describe(id, from.gen.Manifest())
	if err != nil {
		from.close()
		return nil, s, err
	}
	from.former = wire.HostName(s.Spec.Name, string(s.Workspace))
	return from, s, nil
}

// DeleteSnapshot forgets a snapshot. What was started from it goes on.
func (n *Node) DeleteSnapshot(ctx context.Context, ref string) error {
	id, err := dayfly.ParseID(ref)
	if err != nil {
		s, err := n.GetSnapshot(ctx, ref)
		if err != nil {
			return err
		}
		id = s.ID
	}
	if _, err := os.Lstat(n.snapshotDir(id)); errors.Is(err, fs.ErrNotExist) {
		return noSnapshot(ref)
	}
	lock, err := lockWithin(ctx, n.Dir, id, flock.Moment)
	if dayfly.KindOf(err) == dayfly.Conflict {
		return dayfly.Errorf(dayfly.Conflict, "snapshot %s is being made or deleted by another process: try again", ref)
	}
	if err != nil {
		return err
	}
	defer lock.release()
	return n.removeSnapshot(id)
}

// removeSnapshot forgets the key first: what a crash leaves cannot be read.
func (n *Node) removeSnapshot(id dayfly.ID) error {
	dir := n.snapshotDir(id)
	if err := n.Keys.Forget(filepath.Join(dir, keyFile)); err != nil {
		return err
	}
	if err := snapshot.Remove(filepath.Join(dir, generationDir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return syncPath(filepath.Dir(dir))
}

// sweepSnapshots removes those whose maker, or deleter, died.
func (n *Node) sweepSnapshots(ctx context.Context) error {
	ents, err := os.ReadDir(filepath.Join(n.Dir, "snapshots"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range ents {
		id, err := dayfly.ParseID(e.Name())
		if err != nil {
			continue
		}
		key, keyErr := n.Keys.Load(ctx, filepath.Join(n.snapshotDir(id), keyFile), string(id))
		if keyErr == nil {
			key.Clear()
		}
		_, genErr := os.Lstat(filepath.Join(n.snapshotDir(id), generationDir))
		if dayfly.KindOf(keyErr) != dayfly.NotFound && genErr == nil {
			continue // what cannot be read is not removed
		}
		lock, err := lockWorkspace(n.Dir, id)
		if err != nil {
			continue // it is being made
		}
		n.Log.Info("sweeping an unfinished snapshot", "snapshot", id)
		errs = append(errs, n.removeSnapshot(id))
		lock.release()
	}
	return errors.Join(errs...)
}
