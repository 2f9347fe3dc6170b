package control_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// fakeNode keeps the promises of node that control relies on, without machines.
// It outlives the Controls that use it.
type fakeNode struct {
	mu      sync.Mutex
	of      map[dayfly.ID]*fakeWorkspace
	snaps   map[dayfly.ID]dayfly.Snapshot
	changed func(dayfly.Workspace)
	takes   time.Duration                                // of each start, stop and pause
	hold    chan struct{}                                // starts wait until it is closed, if there is one
	silent  bool                                         // consoles have nothing
	begun   chan dayfly.ID                               // told of each start that has begun
	fails   func(verb string, ws dayfly.Workspace) error // may be nil
	refuses error                                        // of Updates that change a size
	guest   func(dayfly.ID) http.Handler                 // may be nil
	deleted []dayfly.ID
	busy    int // starts under way
	most    int // of them at once
}

type fakeWorkspace struct {
	dayfly.Workspace
	turn   chan struct{} // holds a token: whoever has it works on the workspace
	cancel context.CancelCauseFunc
	gone   chan struct{}
	life   context.Context //nolint:containedctx // the life of the machine that runs
	end    context.CancelFunc
}

func newFakeNode() *fakeNode {
	return &fakeNode{of: map[dayfly.ID]*fakeWorkspace{}, snaps: map[dayfly.ID]dayfly.Snapshot{}, begun: make(chan dayfly.ID, 1000)}
}

func (n *fakeNode) find(id dayfly.ID) (*fakeWorkspace, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.of[id]; w != nil {
		return w, nil
	}
	return nil, dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", id)
}

func (n *fakeNode) add(ws dayfly.Workspace) *fakeWorkspace {
	w := &fakeWorkspace{Workspace: ws, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	w.turn <- struct{}{}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.of[ws.ID] = w
	return w
}

// become changes a workspace and tells of it.
func (n *fakeNode) become(w *fakeWorkspace, s dayfly.State, change func(*dayfly.Workspace)) dayfly.Workspace {
	n.mu.Lock()
	if s == dayfly.Running {
		w.life, w.end = context.WithCancel(context.Background())
	} else if w.end != nil {
		w.end()
	}
	w.State, w.Reason = s, ""
	if change != nil {
		change(&w.Workspace)
	}
	ws, told := w.Workspace, n.changed
	if s == dayfly.Deleted {
		delete(n.of, w.ID)
		n.deleted = append(n.deleted, w.ID)
		close(w.gone)
	}
	n.mu.Unlock()
	if told != nil {
		told(ws)
	}
	return ws
}

func (n *fakeNode) lock(ctx context.Context, w *fakeWorkspace) error {
	select {
	case <-w.turn:
		return nil
	case <-w.gone:
		return dayfly.Errorf(dayfly.NotFound, "workspace %s is deleted", w.ID)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *fakeWorkspace) unlock() { w.turn <- struct{}{} }

// work is what takes time.
func (n *fakeNode) work(ctx context.Context, w *fakeWorkspace, verb string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := verb == "start"
	n.mu.Lock()
	w.cancel = cancel
	takes, hold, fails, ws := n.takes, n.hold, n.fails, w.Workspace
	if start {
		n.busy++
		n.most = max(n.most, n.busy)
	}
	n.mu.Unlock()
	if start {
		defer func() {
			n.mu.Lock()
			n.busy--
			n.mu.Unlock()
		}()
		select {
		case n.begun <- w.ID:
		default:
		}
	}
	if hold != nil && start {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	if takes > 0 {
		t := time.NewTimer(takes)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return dayfly.Errorf(dayfly.Unavailable, "%s was cut off", verb)
	}
	if fails != nil {
		return fails(verb, ws)
	}
	return nil
}

var stages = dayfly.Timeline{{Name: "image", Took: 1}, {Name: "boot", At: 1, Took: 40}, {Name: "crypt", At: 2, Took: 3, Within: "boot"}}

func (n *fakeNode) run(ctx context.Context, w *fakeWorkspace, kind dayfly.StartKind) (dayfly.Workspace, error) {
	was := w.Workspace
	n.become(w, dayfly.Creating, nil)
	if err := n.work(ctx, w, "start"); err != nil {
		if was.State != dayfly.Creating {
			n.become(w, was.State, func(ws *dayfly.Workspace) { ws.Reason = was.Reason })
		}
		return dayfly.Workspace{}, err
	}
	return n.become(w, dayfly.Running, func(ws *dayfly.Workspace) {
		ws.StartKind, ws.Timeline, ws.Accel, ws.Kernel = kind, stages, dayfly.TCG, "k"
		ws.Image = dayfly.Image{Name: ws.Spec.Image}
	}), nil
}

func (n *fakeNode) CreateAdmitted(ctx context.Context, spec dayfly.Spec, admit func(dayfly.Workspace) error) (dayfly.Workspace, error) {
	spec, err := spec.Normal()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	ws := dayfly.Workspace{ID: dayfly.NewID(), Name: spec.Name, State: dayfly.Creating, Spec: spec, CreatedAt: time.Now()}
	if err := admit(ws); err != nil {
		return dayfly.Workspace{}, err
	}
	return n.create(ctx, ws, dayfly.Cold)
}

func (n *fakeNode) create(ctx context.Context, ws dayfly.Workspace, kind dayfly.StartKind) (dayfly.Workspace, error) {
	w := n.add(ws)
	<-w.turn
	made, err := n.run(ctx, w, kind)
	if err != nil {
		n.become(w, dayfly.Deleted, nil)
		return dayfly.Workspace{}, err
	}
	w.unlock()
	return made, nil
}

func (n *fakeNode) CreateAs(ctx context.Context, id dayfly.ID, spec dayfly.Spec) (dayfly.Workspace, error) {
	if _, err := n.find(id); err == nil {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is there", id)
	}
	return n.create(ctx, dayfly.Workspace{ID: id, Name: spec.Name, State: dayfly.Creating, Spec: spec, CreatedAt: time.Now()}, dayfly.Cold)
}

func (n *fakeNode) ForkAdmitted(ctx context.Context, id dayfly.ID, count int, admit func([]dayfly.Workspace) error) ([]dayfly.Workspace, error) {
	parent, err := n.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if parent.State != dayfly.Running {
		return nil, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, parent.State)
	}
	list := make([]dayfly.Workspace, count)
	for i := range list {
		list[i] = dayfly.Workspace{ID: dayfly.NewID(), State: dayfly.Creating, Spec: parent.Spec, Parent: string(id), CreatedAt: time.Now()}
	}
	if err := admit(list); err != nil {
		return nil, err
	}
	var failed error
	for i := range list {
		if list[i], err = n.create(ctx, list[i], dayfly.Forked); err != nil {
			failed = err
		}
	}
	if failed != nil {
		for _, ws := range list {
			if ws.ID != "" {
				_ = n.Delete(context.WithoutCancel(ctx), ws.ID)
			}
		}
		return nil, failed
	}
	return list, nil
}

// do works on a workspace in its turn.
func (n *fakeNode) do(ctx context.Context, id dayfly.ID, from []dayfly.State, f func(*fakeWorkspace) (dayfly.Workspace, error)) (dayfly.Workspace, error) {
	w, err := n.find(id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	if err := n.lock(ctx, w); err != nil {
		return dayfly.Workspace{}, err
	}
	defer w.unlock()
	if !slices.Contains(from, w.State) {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, w.State)
	}
	return f(w)
}

func (n *fakeNode) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.do(ctx, id, []dayfly.State{dayfly.Stopped, dayfly.Failed, dayfly.Paused}, func(w *fakeWorkspace) (dayfly.Workspace, error) {
		kind := dayfly.Cold
		if w.State == dayfly.Paused {
			kind = dayfly.Resume
		}
		return n.run(ctx, w, kind)
	})
}

func (n *fakeNode) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.do(ctx, id, []dayfly.State{dayfly.Paused}, func(w *fakeWorkspace) (dayfly.Workspace, error) { return n.run(ctx, w, dayfly.Resume) })
}

func (n *fakeNode) Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error) {
	if sn, err := n.GetSnapshot(ctx, ref); err != nil || sn.Workspace != id {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "snapshot %s is not of it", ref)
	}
	from := []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}
	return n.do(ctx, id, from, func(w *fakeWorkspace) (dayfly.Workspace, error) {
		n.become(w, dayfly.Failed, nil)
		return n.run(ctx, w, dayfly.FromSnapshot)
	})
}

func (n *fakeNode) halt(ctx context.Context, id dayfly.ID, verb string, from []dayfly.State, to dayfly.State) (dayfly.Workspace, error) {
	return n.do(ctx, id, append(from, to), func(w *fakeWorkspace) (dayfly.Workspace, error) {
		if w.State == to {
			return w.Workspace, nil
		}
		if err := n.work(ctx, w, verb); err != nil {
			return dayfly.Workspace{}, err
		}
		return n.become(w, to, nil), nil
	})
}

func (n *fakeNode) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.halt(ctx, id, "stop", []dayfly.State{dayfly.Running, dayfly.Paused, dayfly.Failed}, dayfly.Stopped)
}

func (n *fakeNode) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.halt(ctx, id, "pause", []dayfly.State{dayfly.Running}, dayfly.Paused)
}

func (n *fakeNode) Delete(ctx context.Context, id dayfly.ID) error {
	w, err := n.find(id)
	if err != nil {
		return err
	}
	n.mu.Lock()
	if w.cancel != nil {
		w.cancel(context.Canceled)
	}
	n.mu.Unlock()
	if err := n.lock(ctx, w); err != nil {
		if dayfly.KindOf(err) == dayfly.NotFound {
			return nil
		}
		return err
	}
	n.become(w, dayfly.Deleted, nil)
	return nil
}

// die ends a machine as if by itself.
func (n *fakeNode) die(t testing.TB, id dayfly.ID) {
	t.Helper()
	_, err := n.do(t.Context(), id, []dayfly.State{dayfly.Running}, func(w *fakeWorkspace) (dayfly.Workspace, error) {
		return n.become(w, dayfly.Failed, func(ws *dayfly.Workspace) { ws.Reason = "the guest's kernel panicked" }), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *fakeNode) Update(ctx context.Context, id dayfly.ID, spec dayfly.Spec) (dayfly.Workspace, error) {
	all := []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}
	return n.do(ctx, id, all, func(w *fakeWorkspace) (dayfly.Workspace, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		moves := spec.CPUs != w.Spec.CPUs || spec.MemoryMiB != w.Spec.MemoryMiB || spec.DiskMiB != w.Spec.DiskMiB
		if moves && n.refuses != nil {
			return dayfly.Workspace{}, n.refuses
		}
		if moves && (w.State == dayfly.Running || w.State == dayfly.Paused) {
			return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, w.State)
		}
		w.Spec.CPUs, w.Spec.MemoryMiB, w.Spec.DiskMiB, w.Spec.Name, w.Spec.Keep = spec.CPUs, spec.MemoryMiB, spec.DiskMiB, spec.Name, spec.Keep
		return w.Workspace, nil
	})
}

func (n *fakeNode) Get(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	w, err := n.find(id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return w.Workspace, nil
}

func (n *fakeNode) Ours(ctx context.Context) (list []dayfly.Workspace, _ error) {
	for _, id := range n.ids() {
		if ws, err := n.Get(ctx, id); err == nil && ws.State != dayfly.Creating {
			list = append(list, ws)
		}
	}
	return list, nil
}

// ids are those of all workspaces, sorted.
func (n *fakeNode) ids() []dayfly.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := []dayfly.ID{}
	for id := range n.of {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

func (n *fakeNode) Dial(_ context.Context, id dayfly.ID, port uint16) (net.Conn, error) {
	w, err := n.find(id)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.State != dayfly.Running {
		return nil, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, w.State)
	}
	near, far := net.Pipe()
	if n.guest == nil || port != wire.AgentPort {
		context.AfterFunc(w.life, func() { far.Close() })
		return near, nil
	}
	server := &http.Server{Handler: n.guest(id)}
	l := &oneConn{conn: far, closed: make(chan struct{})}
	go func() { _ = server.Serve(l) }()
	context.AfterFunc(w.life, func() { _ = server.Close() })
	return near, nil
}

// oneConn is a listener with one connection, which ends with it.
type oneConn struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
	over   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = closer{l.conn, l} })
	if c != nil {
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { l.over.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

type closer struct {
	net.Conn
	l *oneConn
}

func (c closer) Close() error {
	_ = c.l.Close()
	return c.Conn.Close()
}

func (n *fakeNode) Console(_ context.Context, id dayfly.ID) ([]byte, error) {
	if _, err := n.find(id); err != nil {
		return nil, err
	}
	if n.silent {
		return nil, nil
	}
	return []byte("line 1\nline 2\nline 3\n"), nil
}

func (n *fakeNode) Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error) {
	if name != "" {
		return dayfly.Snapshot{}, fmt.Errorf("a name, %q, is control's", name)
	}
	ws, err := n.Get(ctx, id)
	if err != nil {
		return dayfly.Snapshot{}, err
	}
	if ws.State != dayfly.Running {
		return dayfly.Snapshot{}, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, ws.State)
	}
	sn := dayfly.Snapshot{ID: dayfly.NewID(), Workspace: id, Spec: ws.Spec, CreatedAt: time.Now(), FreeBytes: 7}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.snaps[sn.ID] = sn
	return sn, nil
}

func (n *fakeNode) Snapshots(context.Context) ([]dayfly.Snapshot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.snaps)), nil
}

func (n *fakeNode) GetSnapshot(_ context.Context, ref string) (dayfly.Snapshot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sn, ok := n.snaps[dayfly.ID(ref)]
	if !ok {
		return sn, dayfly.Errorf(dayfly.NotFound, "there is no snapshot %s", ref)
	}
	return sn, nil
}

func (n *fakeNode) DeleteSnapshot(ctx context.Context, ref string) error {
	if _, err := n.GetSnapshot(ctx, ref); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.snaps, dayfly.ID(ref))
	return nil
}

// close ends every machine.
func (n *fakeNode) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.of {
		if w.end != nil {
			w.end()
		}
	}
}
