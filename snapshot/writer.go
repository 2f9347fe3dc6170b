package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/keyring"
)

// tempPrefix begins the names of unfinished generations.
const tempPrefix = ".new-"

// Writer builds one generation. Its methods are called one at a time; RAM and
// State once each, in any order, and Disk for every layer, the lowest first.
// After an error of any of them it can only be aborted.
type Writer struct {
	files files
	dir   string // where the generation will be
	at    string // where it is now; empty once it is committed or gone
	keys  *keys
	body  body
	made  map[string]bool // files begun
	open  map[string]file // those among them that are not flushed yet
	err   error           // why it can only be aborted
}

// Create begins a generation that will be at dir, in a directory of its own
// beside it. A dir that exists is a Conflict. The key may be cleared when
// Create has returned.
func Create(dir string, key *keyring.Key) (*Writer, error) {
	return create(host{}, dir, key)
}

func create(on files, dir string, key *keyring.Key) (*Writer, error) {
	dir = filepath.Clean(dir)
	if _, err := os.Lstat(dir); err == nil {
		return nil, conflict(nil)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, writeError("the snapshot", err)
	}
	var s salt
	_, _ = rand.Read(s[:]) // never fails: crypto/rand ends the process instead
	k, err := derive(key, s)
	if err != nil {
		return nil, err
	}
	w := &Writer{files: on, dir: dir, keys: k, made: map[string]bool{}, open: map[string]file{}}
	w.body.Files = make([]stored, 2)
	w.at = filepath.Join(filepath.Dir(dir), tempPrefix+filepath.Base(dir)+"-"+rand.Text())
	if err := on.Mkdir(w.at); err != nil {
		k.clear()
		return nil, writeError("the snapshot", err)
	}
	return w, nil
}

func conflict(err error) error {
	return &dayfly.Error{Kind: dayfly.Conflict, Msg: "a snapshot of that id exists already: delete it first, or choose another id", Err: err}
}

// create makes a file of the generation. That it can be made only once keeps
// the numbers that its pieces are sealed with from being used twice.
func (w *Writer) create(name string) (file, error) {
	if err := w.usable(); err != nil {
		return nil, err
	}
	if w.made[name] {
		return nil, w.fail(dayfly.Errorf(dayfly.Conflict, "the snapshot's %s was written already: abort it and begin a new one", name))
	}
	f, err := w.files.Create(filepath.Join(w.at, name))
	if err != nil {
		return nil, w.fail(writeError("the snapshot's "+name, err))
	}
	w.made[name], w.open[name] = true, f
	return f, nil
}

func (w *Writer) usable() error {
	if w.at == "" {
		return dayfly.Errorf(dayfly.Conflict, "the snapshot was committed or aborted: begin a new one")
	}
	return w.err
}

// fail keeps half a file from being committed.
func (w *Writer) fail(err error) error {
	w.err = err
	return err
}

// Commit makes the generation durable and puts it in its place. Only when it
// has returned without an error the generation exists, and then it survives a
// power cut; otherwise nothing is left of it, as after Abort.
func (w *Writer) Commit(ctx context.Context, meta Meta) (Manifest, error) {
	m, err := w.commit(ctx, meta)
	if err != nil {
		return Manifest{}, errors.Join(err, w.Abort())
	}
	w.at = ""
	w.keys.clear()
	return m, nil
}

func (w *Writer) commit(ctx context.Context, meta Meta) (Manifest, error) {
	if err := w.usable(); err != nil {
		return Manifest{}, err
	}
	if !w.made[ramName] || !w.made[stateName] {
		return Manifest{}, dayfly.Errorf(dayfly.Invalid, "a snapshot without memory or state of its machine cannot be committed")
	}
	meta.CreatedAt = meta.CreatedAt.UTC().Round(0) // as it will be read: a wall clock
	w.body.Meta = meta
	if err := w.body.checkMeta(); err != nil { // before the long work
		return Manifest{}, dayfly.Errorf(dayfly.Invalid, "snapshot manifest: %w", err)
	}
	if err := w.sealDisks(ctx); err != nil {
		return Manifest{}, err
	}
	text, m, err := encodeManifest(w.keys, &w.body)
	if err != nil {
		return Manifest{}, err
	}
	if err := w.flush(ctx, text); err != nil {
		return Manifest{}, writeError("the snapshot", err)
	}
	return m, w.publish(ctx)
}

// flush makes all files durable, then the manifest, then their names.
func (w *Writer) flush(ctx context.Context, manifest []byte) error {
	f, err := w.create(manifestName)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(manifest, 0); err != nil {
		return err
	}
	for _, name := range []string{ramName, stateName, manifestName} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.open[name].Sync(); err != nil {
			return err
		}
	}
	if err := w.closeFiles(); err != nil {
		return err
	}
	for _, d := range w.body.Disks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.files.Sync(filepath.Join(w.at, d.Name)); err != nil {
			return err
		}
	}
	return w.files.Sync(w.at)
}

func (w *Writer) publish(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := w.files.Rename(w.at, w.dir)
	if errors.Is(err, fs.ErrExist) {
		return conflict(err)
	} else if err != nil {
		return writeError("the snapshot", err)
	}
	w.at = w.dir
	if err := w.files.Sync(filepath.Dir(w.dir)); err != nil {
		return writeError("the snapshot", err)
	}
	return nil
}

func (w *Writer) closeFiles() error {
	var errs []error
	for _, f := range w.open {
		errs = append(errs, f.Close())
	}
	clear(w.open)
	return errors.Join(errs...)
}

// Abort removes all that was written. It may be called at any time and again,
// and does nothing after Commit.
func (w *Writer) Abort() error {
	if w.at == "" {
		return nil
	}
	w.err = dayfly.Errorf(dayfly.Conflict, "the snapshot was aborted: begin a new one")
	w.keys.clear()
	_ = w.closeFiles() // of no use any more
	if err := remove(w.files, w.at); err != nil {
		return err
	}
	w.at = ""
	return nil
}
