package agent

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// maxWatchedDirs bounds one recursive watch; the kernel bounds their sum
// (fs.inotify.max_user_watches).
const maxWatchedDirs = 64 << 10

// watch is one watched directory.
type watch struct {
	a    *Agent
	root string
	req  *wire.WatchRequest
	fs   *fsnotify.Watcher
	dirs int
	// found holds entries of new directories that were reported from a look
	// inside, so that the kernel's report of the same is not a second event.
	found map[string]struct{}
}

// maxFound bounds found; beyond it an event may be reported twice.
const maxFound = 16 << 10

var errLost = wire.Errorf(wire.DataLoss, "more changes came than could be kept: list the directory again, and watch anew")

// newWatch starts to watch. Its caller reads fs.Events, and closes fs.
func (a *Agent) newWatch(r *http.Request, req *wire.WatchRequest) (*watch, error) {
	_, path, err := a.pathOf(r, req.Path)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fileError("watch", path, err)
	}
	if !fi.IsDir() {
		return nil, wire.Errorf(wire.InvalidArgument, "path is not a directory: %s", path)
	}
	if !req.AllowNetworkMounts && onNetwork(path) {
		return nil, wire.Errorf(wire.InvalidArgument, "%s is on a network file system, which does not report all changes: allow network mounts to watch it all the same", path)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, watchError(path, err)
	}
	w := &watch{a: a, root: path, req: req, fs: notify, found: map[string]struct{}{}}
	if err := w.add(path, nil); err != nil {
		_ = notify.Close()
		return nil, err
	}
	return w, nil
}

func watchError(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) {
		return wire.Errorf(wire.ResourceExhausted, "watch %s: the kernel's inotify limits are reached (sysctl fs.inotify)", path)
	}
	return fileError("watch", path, err)
}

// add watches a directory and, in a recursive watch, all below it. Each entry
// it passes on the way is handed to see.
func (w *watch) add(dir string, see func(string)) error {
	if w.dirs++; w.dirs > maxWatchedDirs {
		return wire.Errorf(wire.ResourceExhausted, "watch %s: more than %d directories", w.root, maxWatchedDirs)
	}
	if err := w.fs.Add(dir); err != nil {
		return watchError(dir, err)
	}
	if !w.req.Recursive {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone again, or not readable: nothing below it to watch
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if see != nil {
			see(path)
		}
		if !e.IsDir() {
			continue
		}
		err := w.add(path, see)
		if wire.CodeOf(err) == wire.ResourceExhausted {
			return err
		}
	}
	return nil
}

// events turns one report of the kernel into the client's events.
func (w *watch) events(ev fsnotify.Event, emit func(wire.FilesystemEvent)) error {
	if ev.Has(fsnotify.Create) {
		if _, twice := w.found[ev.Name]; twice {
			delete(w.found, ev.Name)
			return nil
		}
		emit(w.event(ev.Name, wire.EventCreate))
		if err := w.created(ev.Name, emit); err != nil {
			return err
		}
	}
	for _, kind := range []struct {
		op   fsnotify.Op
		kind wire.EventType
	}{
		{fsnotify.Rename, wire.EventRename},
		{fsnotify.Chmod, wire.EventChmod},
		{fsnotify.Write, wire.EventWrite},
		{fsnotify.Remove, wire.EventRemove},
	} {
		if ev.Has(kind.op) {
			emit(w.event(ev.Name, kind.kind))
		}
	}
	if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
		delete(w.found, ev.Name)
	}
	return nil
}

// created watches a new directory, and reports what was put into it before it
// was watched.
func (w *watch) created(path string, emit func(wire.FilesystemEvent)) error {
	if !w.req.Recursive {
		return nil
	}
	if fi, err := os.Lstat(path); err != nil || !fi.IsDir() {
		return nil
	}
	err := w.add(path, func(inside string) {
		if len(w.found) < maxFound {
			w.found[inside] = struct{}{}
		}
		emit(w.event(inside, wire.EventCreate))
	})
	if wire.CodeOf(err) == wire.NotFound {
		return nil // gone again
	}
	return err
}

func (w *watch) event(path string, kind wire.EventType) wire.FilesystemEvent {
	name, err := filepath.Rel(w.root, path)
	if err != nil {
		name = path
	}
	ev := wire.FilesystemEvent{Name: name, Type: kind}
	if w.req.IncludeEntry {
		ev.Entry, _ = w.a.entryAt(path) // gone: an event without it
	}
	return ev
}

// failed words an error of the watch itself.
func (w *watch) failed(err error) error {
	if errors.Is(err, fsnotify.ErrEventOverflow) {
		return errLost
	}
	return fileError("watch", w.root, err)
}

// watchDir streams events until the client goes.
func (a *Agent) watchDir(ctx context.Context, r *http.Request, req *wire.WatchRequest, s *wire.ResponseStream) error {
	w, err := a.newWatch(r, req)
	if err != nil {
		return err
	}
	defer w.fs.Close()
	every := keepalive(r)
	quiet := time.NewTimer(every)
	defer quiet.Stop()
	if err := s.Send(wire.WatchEvent{Start: &wire.Empty{}}); err != nil {
		return err
	}
	for {
		select {
		case ev := <-w.fs.Events:
			var sendErr error
			err = w.events(ev, func(e wire.FilesystemEvent) {
				if sendErr == nil {
					sendErr = s.Send(wire.WatchEvent{Filesystem: &e})
				}
			})
			err = errors.Join(err, sendErr)
		case err = <-w.fs.Errors:
			err = w.failed(err)
		case <-quiet.C:
			err = s.Send(wire.WatchEvent{Keepalive: &wire.Empty{}})
		case <-ctx.Done():
			return ctx.Err()
		case <-a.ctx.Done():
			return wire.Errorf(wire.Unavailable, "the agent is shutting down")
		}
		if err != nil {
			return err
		}
		quiet.Reset(every)
	}
}

// onNetwork says whether a path is on a file system whose changes may come
// from elsewhere, unseen by the kernel (magic numbers of linux/magic.h).
func onNetwork(path string) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC,
		unix.V9FS_MAGIC, unix.FUSE_SUPER_MAGIC:
		return true
	}
	return false
}
