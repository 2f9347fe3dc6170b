// Package fakehost is a host without machines, for tests of what stands above
// one: its workspaces are records, and what runs in them runs on this machine,
// started by a real agent in this process.
//
// It keeps the promises of node that callers see (states, errors with their
// stage, a cancelled start leaves nothing) and none of its isolation. Some
// images misbehave on purpose: see the constants.
package fakehost

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/guest/agent"
	"github.com/dayfly/dayfly/guest/wire"
)

// Images that are there, and what becomes of workspaces made from them. Any
// other image is missing until it is pulled.
const (
	Base    = "base"    // works
	Slow    = "slow"    // does not come up until the caller gives up
	Broken  = "broken"  // fails in the stage vmm, with a cause for the log
	Doomed  = "doomed"  // its machine ends when its first command has written something
	Private = "private" // cannot be pulled
)

// Secret is in the causes of errors; no caller may ever read it.
const Secret = "the-cause-nobody-may-read"

// Timeline is that of every start.
var Timeline = dayfly.Timeline{
	{Name: "image", At: 0.2, Took: 0.5},
	{Name: "boot", At: 0.7, Took: 40},
	{Name: "init", At: 40.7, Took: 12},
	{Name: "crypt", At: 41, Took: 3, Within: "init"},
}

// Host is a fake host. Close it.
type Host struct {
	mu     sync.Mutex
	of     map[dayfly.ID]*workspace
	pulled map[string]bool
	snaps  []dayfly.Snapshot
	starts chan struct{}
	server // what only servers have
}

type workspace struct {
	dayfly.Workspace
	agent *agent.Agent
	end   context.CancelFunc // of its connections
	ended <-chan struct{}
}

// New returns a host without workspaces.
func New() *Host {
	return &Host{of: map[dayfly.ID]*workspace{}, pulled: map[string]bool{}, starts: make(chan struct{}, 64), server: newServer()}
}

// Starting receives a value whenever a start has begun.
func (h *Host) Starting() <-chan struct{} { return h.starts }

// Options is a server of one command over this host.
func (h *Host) Options() api.Options {
	return api.Options{Workspaces: h, Snapshots: h, Guests: h, Images: images{h}, Kernels: kernels{}, Host: h, System: h}
}

// Create makes a workspace. With o.Once it makes one.
func (h *Host) Create(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error) {
	spec, err := spec.Normal()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if id, known := h.once(ctx, o.Once); known {
		return h.Get(ctx, id)
	}
	ws, err := h.make(ctx, spec)
	if err == nil {
		h.made(ctx, o.Once, ws)
	}
	return ws, err
}

func (h *Host) make(ctx context.Context, spec dayfly.Spec) (dayfly.Workspace, error) {
	select {
	case h.starts <- struct{}{}:
	default:
	}
	if spec.Snapshot != "" {
		return h.fromSnapshot(ctx, spec)
	}
	if err := h.spoil(ctx, spec.Image); err != nil {
		return dayfly.Workspace{}, err
	}
	return h.create(ctx, spec, dayfly.Cold, "")
}

// create makes a workspace that came to run in one way, as a copy of parent if
// there is one.
func (h *Host) create(ctx context.Context, spec dayfly.Spec, kind dayfly.StartKind, parent string) (dayfly.Workspace, error) {
	w := &workspace{Workspace: dayfly.Workspace{
		ID: dayfly.NewID(), Name: spec.Name, State: dayfly.Creating, Spec: spec, CreatedAt: time.Now().UTC(), Parent: parent,
		Namespace: dayfly.CallerOf(ctx).Home(), Ready: true,
		Image: dayfly.Image{Name: spec.Image, Config: dayfly.ImageConfig{Cmd: []string{"echo", "the image's own command"}}},
	}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of[w.ID] = w
	return h.start(ctx, w, kind)
}

func (h *Host) spoil(ctx context.Context, image string) error {
	h.mu.Lock()
	known := h.pulled[image]
	h.mu.Unlock()
	switch {
	case image == Slow:
		<-ctx.Done()
		return ctx.Err()
	case image == Broken:
		return &dayfly.Error{Kind: dayfly.Unavailable, Stage: "vmm", Msg: "no VMM: install one", Err: os.NewSyscallError(Secret, os.ErrNotExist)}
	case image == Base, image == Doomed, known:
		return nil
	}
	return &dayfly.Error{Kind: dayfly.NotFound, Stage: "image", Msg: "there is no image " + image + ": dayfly image pull " + image}
}

// Start starts a workspace that has no machine; a paused one goes on.
func (h *Host) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	switch w.State {
	case dayfly.Running:
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is running already", id)
	case dayfly.Paused:
		return h.start(ctx, w, dayfly.Resume)
	}
	return h.start(ctx, w, dayfly.Cold)
}

// start makes w run. The caller holds mu.
func (h *Host) start(ctx context.Context, w *workspace, kind dayfly.StartKind) (dayfly.Workspace, error) {
	if w.State != dayfly.Creating {
		if err := w.State.To(dayfly.Creating); err != nil {
			return dayfly.Workspace{}, err
		}
	}
	w.agent = agent.New(agent.Config{OnInit: func(context.Context, wire.Init) (wire.InitReply, error) { return wire.InitReply{}, nil }})
	ended, end := context.WithCancel(context.Background())
	w.ended, w.end = ended.Done(), end
	if err := h.init(ctx, w); err != nil {
		return dayfly.Workspace{}, err
	}
	w.State, w.Reason, w.StartKind, w.Accel, w.Timeline = dayfly.Running, "", kind, dayfly.TCG, Timeline
	return w.Workspace, nil
}

// init tells the agent what node would.
func (h *Host) init(ctx context.Context, w *workspace) error {
	user, dir := w.Spec.User, w.Spec.Workdir
	if dir == "" {
		dir = "/tmp"
	}
	conn := h.serve(w)
	t := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer t.CloseIdleConnections()
	c := &wire.Client{HTTP: &http.Client{Transport: t}, Base: "http://guest"}
	config := w.Image.Config
	return c.Unary(ctx, wire.InitPath, wire.Init{ID: string(w.ID), EnvVars: w.Spec.Env, DefaultUser: user, DefaultWorkdir: dir, Config: &config}, nil)
}

// serve returns a connection to the workspace's agent.
func (h *Host) serve(w *workspace) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // on loopback, at once
	if err != nil {
		panic(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String()) //nolint:noctx // on loopback, at once
	if err != nil {
		panic(err)
	}
	far, err := l.Accept()
	if err != nil {
		panic(err)
	}
	handler := w.agent.Handler()
	if w.Spec.Image == Doomed {
		handler = doom(handler, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			w.State, w.Reason = dayfly.Failed, "the guest's kernel panicked"
			w.end()
		})
	}
	server := &http.Server{Handler: handler} //nolint:gosec // serves one connection of ours
	ended := w.ended
	go func() {
		_ = server.Serve(&once{conn: far})
		<-ended
		_ = server.Close() // the connections too, which outlive Serve
	}()
	return near
}

// doom calls end as soon as a command's output passes by.
func doom(next http.Handler, end func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not at once: whoever is served may hold the host's lock.
		next.ServeHTTP(&watcher{ResponseWriter: w, seen: func() { go end() }}, r)
	})
}

// watcher calls seen once output has been sent.
type watcher struct {
	http.ResponseWriter
	seen func()
	once sync.Once
}

func (w *watcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if bytes.Contains(p, []byte(`"stdout"`)) || bytes.Contains(p, []byte(`"pty"`)) {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		w.once.Do(w.seen)
	}
	return n, err
}

// once is a listener that yields one connection.
type once struct {
	conn net.Conn
	done sync.Once
}

func (l *once) Accept() (c net.Conn, err error) {
	err = io.EOF
	l.done.Do(func() { c, err = l.conn, nil })
	return c, err
}
func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return l.conn.LocalAddr() }

func (h *Host) find(ctx context.Context, id dayfly.ID) (*workspace, error) {
	if w := h.of[id]; w != nil && dayfly.CallerOf(ctx).Sees(w.Workspace) {
		return w, nil
	}
	return nil, dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", id)
}

// Stop ends a workspace's commands.
func (h *Host) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if err := w.State.To(dayfly.Stopped); err != nil {
		return dayfly.Workspace{}, err
	}
	w.close()
	w.State, w.Spec.Keep = dayfly.Stopped, true
	return w.Workspace, nil
}

func (w *workspace) close() {
	if w.agent != nil {
		w.end()
		_ = w.agent.Close()
		w.agent = nil
	}
}

// Get returns a workspace.
func (h *Host) Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return w.Workspace, nil
}

// List returns the workspaces that the caller sees, in pages of q.Limit.
func (h *Host) List(ctx context.Context, q dayfly.Query) (dayfly.Page, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []dayfly.Workspace
	for _, w := range h.of {
		if dayfly.CallerOf(ctx).Sees(w.Workspace) && selects(q, w.Workspace) {
			list = append(list, w.Workspace)
		}
	}
	return page(q, list), nil
}

// Delete ends a workspace and forgets it.
func (h *Host) Delete(ctx context.Context, id dayfly.ID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	w.close()
	delete(h.of, id)
	w.State = dayfly.Deleted
	h.tell(ctx, dayfly.WorkspaceDeleted, w.Workspace)
	return nil
}

// Dial connects to the agent of a running workspace.
func (h *Host) Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, err := h.find(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case w.State != dayfly.Running:
		return nil, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, w.State)
	case port != wire.AgentPort:
		return nil, dayfly.Errorf(dayfly.Unavailable, "nothing listens on port %d", port)
	}
	return h.serve(w), nil
}

// Checks has one of each verdict, and nothing broken.
func (h *Host) Checks(context.Context) []dayfly.Check {
	return []dayfly.Check{
		{Name: "vmm", Status: dayfly.Good, Detail: "fake"},
		{Name: "kvm", Status: dayfly.Lacking, Detail: "no guest runs on it", Remedy: "another host"},
	}
}

// Close ends every workspace.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, w := range h.of {
		w.close()
		delete(h.of, id)
	}
	return nil
}
