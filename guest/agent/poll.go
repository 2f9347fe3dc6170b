package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// Bounds on watchers of the polling form, which nobody's connection owns.
const (
	maxWatchers   = 256
	maxPending    = 8192             // events kept between two polls
	watcherUnused = 10 * time.Minute // without a poll: may make room for another
)

// watcherTable is the watchers of the polling form, and the open streams of
// the other.
type watcherTable struct {
	mu      sync.Mutex
	byID    map[string]*watcher
	streams map[*inotify]struct{}
	closed  bool
}

// watcher collects events for polls.
type watcher struct {
	watch *watch

	mu     sync.Mutex
	events []wire.FilesystemEvent
	failed error // told once, at the next poll
	polled time.Time
}

// serveWatch serves those of them that watch.
func (a *Agent) serveWatch(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case wire.FilesystemWatchDir:
		wire.ServeStream(w, r, func(ctx context.Context, req *wire.WatchRequest, s *wire.ResponseStream) error {
			return a.watchDir(ctx, r, req, s)
		})
	case wire.FilesystemCreateWatcher:
		wire.ServeUnary(w, r, func(_ context.Context, req *wire.WatchRequest) (*wire.WatcherID, error) {
			return a.createWatcher(r, req)
		})
	case wire.FilesystemGetWatcherEvents:
		wire.ServeUnary(w, r, a.watcherEvents)
	case wire.FilesystemRemoveWatcher:
		wire.ServeUnary(w, r, a.removeWatcher)
	default:
		return false
	}
	return true
}

func (a *Agent) createWatcher(r *http.Request, req *wire.WatchRequest) (*wire.WatcherID, error) {
	inner, err := a.newWatch(r, req)
	if err != nil {
		return nil, err
	}
	w := &watcher{watch: inner, polled: time.Now()}
	id, err := a.watchers.add(w, &a.tasks)
	if err != nil {
		inner.in.close()
		return nil, err
	}
	go func() {
		defer a.tasks.Done()
		w.collect()
	}()
	return &wire.WatcherID{ID: id}, nil
}

// add takes a watcher in and counts it among the tasks.
func (t *watcherTable) add(w *watcher, tasks *sync.WaitGroup) (string, error) {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	id := hex.EncodeToString(raw[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return "", wire.Errorf(wire.Unavailable, "the agent is shutting down")
	}
	if t.byID == nil {
		t.byID = make(map[string]*watcher)
	}
	if len(t.byID) >= maxWatchers {
		t.evict()
	}
	if len(t.byID) >= maxWatchers {
		return "", wire.Errorf(wire.ResourceExhausted, "%d watchers exist, the most there may be: remove some", maxWatchers)
	}
	tasks.Add(1)
	t.byID[id] = w
	return id, nil
}

// evict drops watchers that were forgotten; t.mu is held.
func (t *watcherTable) evict() {
	for id, w := range t.byID {
		w.mu.Lock()
		unused := time.Since(w.polled) > watcherUnused
		w.mu.Unlock()
		if unused {
			delete(t.byID, id)
			w.watch.in.close()
		}
	}
}

// join takes a stream in, to be woken when the table is closed.
func (t *watcherTable) join(in *inotify) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams == nil {
		t.streams = make(map[*inotify]struct{})
	}
	t.streams[in] = struct{}{}
	if t.closed {
		in.wake()
	}
}

func (t *watcherTable) leave(in *inotify) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.streams, in)
}

func (t *watcherTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for in := range t.streams {
		in.wake()
	}
	for id, w := range t.byID {
		delete(t.byID, id)
		w.watch.in.close()
	}
}

// collect keeps events until the watch is closed.
func (w *watcher) collect() {
	for {
		err := w.watch.next(time.Time{}, w.keep)
		var told *wire.Error
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			w.fail(err)
		}
		if err != nil && !errors.As(err, &told) {
			return // the watch is broken, not just behind
		}
	}
}

func (w *watcher) keep(ev wire.FilesystemEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.events) >= maxPending {
		w.events, w.failed = nil, errLost
	}
	w.events = append(w.events, ev)
}

func (w *watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
}

func (a *Agent) watcherEvents(_ context.Context, req *wire.WatcherID) (*wire.WatcherEvents, error) {
	a.watchers.mu.Lock()
	w := a.watchers.byID[req.ID]
	a.watchers.mu.Unlock()
	if w == nil {
		return nil, errNoWatcher(req.ID)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.polled = time.Now()
	if err := w.failed; err != nil {
		w.failed = nil
		return nil, err
	}
	out := &wire.WatcherEvents{Events: w.events}
	w.events = nil
	return out, nil
}

func (a *Agent) removeWatcher(_ context.Context, req *wire.WatcherID) (*wire.Empty, error) {
	a.watchers.mu.Lock()
	w := a.watchers.byID[req.ID]
	delete(a.watchers.byID, req.ID)
	a.watchers.mu.Unlock()
	if w == nil {
		return nil, errNoWatcher(req.ID)
	}
	w.watch.in.close()
	return &wire.Empty{}, nil
}

func errNoWatcher(id string) error {
	return wire.Errorf(wire.NotFound, "watcher with id %q not found", id)
}
