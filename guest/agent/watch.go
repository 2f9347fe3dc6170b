package agent

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// maxWatchedDirs bounds one recursive watch; the kernel bounds their sum
// (fs.inotify.max_user_watches).
const maxWatchedDirs = 64 << 10

// watch is one watched directory. It is used by one goroutine at a time.
type watch struct {
	a    *Agent
	root string
	req  *wire.WatchRequest
	in   *inotify
	// found holds entries of new directories that were reported from a look
	// inside, so that the kernel's report of the same is not a second event.
	found map[string]struct{}
}

// maxFound bounds found; beyond it an event may be reported twice.
const maxFound = 16 << 10

var errLost = &wire.Error{Code: wire.DataLoss, Message: "more changes came than could be kept: list the directory again, and watch anew"}

// newWatch starts to watch. Its caller closes what it returns.
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
	in, err := newInotify()
	if err != nil {
		return nil, watchError(path, err)
	}
	w := &watch{a: a, root: path, req: req, in: in, found: map[string]struct{}{}}
	if err := w.add(path, nil); err != nil {
		in.close()
		return nil, err
	}
	return w, nil
}

func watchError(path string, err error) error {
	if inotifyFull(err) {
		return wire.Errorf(wire.ResourceExhausted, "watch %s: the kernel's inotify limits are reached (sysctl fs.inotify)", path)
	}
	return fileError("watch", path, err)
}

// add watches a directory and, in a recursive watch, all below it. Each entry
// it passes on the way is handed to see.
func (w *watch) add(dir string, see func(string)) error {
	if len(w.in.paths) >= maxWatchedDirs {
		return wire.Errorf(wire.ResourceExhausted, "watch %s: more than %d directories", w.root, maxWatchedDirs)
	}
	if err := w.in.add(dir, dir == w.root); err != nil {
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

// next waits for changes and hands them to emit: until the deadline, or until
// the watch is woken or closed.
func (w *watch) next(deadline time.Time, emit func(wire.FilesystemEvent)) error {
	reports, err := w.in.read(deadline)
	if err != nil {
		return err
	}
	for _, r := range reports {
		if r.self && r.path != w.root {
			continue // its parent is watched too, and says the same
		}
		if err := w.changed(r, emit); err != nil {
			return err
		}
	}
	return nil
}

// changed turns one report of the kernel into the client's events.
func (w *watch) changed(r report, emit func(wire.FilesystemEvent)) error {
	isDir := w.req.Recursive && r.mask&unix.IN_ISDIR != 0
	switch {
	case r.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		_, twice := w.found[r.path]
		delete(w.found, r.path)
		if twice && r.mask&unix.IN_CREATE != 0 { // a move may replace what was found: better told twice
			return nil
		}
		emit(w.event(r.path, wire.EventCreate))
		if isDir {
			return w.enter(r.path, emit)
		}
	case r.mask&(unix.IN_MOVED_FROM|unix.IN_MOVE_SELF) != 0:
		emit(w.event(r.path, wire.EventRename))
		delete(w.found, r.path)
		if isDir && !r.self {
			w.in.forget(r.path) // if it stays below the root it is entered again
			maps.DeleteFunc(w.found, func(p string, _ struct{}) bool { return strings.HasPrefix(p, r.path+"/") })
		}
	case r.mask&(unix.IN_DELETE|unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0:
		emit(w.event(r.path, wire.EventRemove))
		delete(w.found, r.path)
	case r.mask&unix.IN_MODIFY != 0:
		emit(w.event(r.path, wire.EventWrite))
	case r.mask&unix.IN_ATTRIB != 0:
		emit(w.event(r.path, wire.EventChmod))
	}
	return nil
}

// enter watches a new directory, and reports what was put into it before it
// was watched.
func (w *watch) enter(path string, emit func(wire.FilesystemEvent)) error {
	err := w.add(path, func(inside string) {
		if len(w.found) < maxFound {
			w.found[inside] = struct{}{}
		}
		emit(w.event(inside, wire.EventCreate))
	})
	if err != nil && wire.CodeOf(err) != wire.ResourceExhausted {
		return nil // gone again, or something else by now
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

// watchDir streams events until the client goes.
func (a *Agent) watchDir(ctx context.Context, r *http.Request, req *wire.WatchRequest, s *wire.ResponseStream) error {
	w, err := a.newWatch(r, req)
	if err != nil {
		return err
	}
	defer w.in.close()
	defer context.AfterFunc(ctx, w.in.wake)()
	a.watchers.join(w.in)
	defer a.watchers.leave(w.in)
	if err := s.Send(wire.WatchEvent{Start: &wire.Empty{}}); err != nil {
		return err
	}
	every := keepalive(r)
	for {
		var sendErr error
		err := w.next(time.Now().Add(every), func(e wire.FilesystemEvent) {
			if sendErr == nil {
				sendErr = s.Send(wire.WatchEvent{Filesystem: &e})
			}
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case w.in.woken.Load():
			return wire.Errorf(wire.Unavailable, "the agent is shutting down")
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = s.Send(wire.WatchEvent{Keepalive: &wire.Empty{}})
		}
		if err = errors.Join(err, sendErr); err != nil {
			return err
		}
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
