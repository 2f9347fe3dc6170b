package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// fake is a host whose workspaces are records and whose guests are servers on
// in-memory pipes.
type fake struct {
	mu       sync.Mutex
	of       map[dayfly.ID]dayfly.Workspace
	created  chan dayfly.ID // if set, told of each creation
	hold     chan struct{}  // if set, Create returns only once it is closed
	err      error          // if set, what Create returns
	snaps    []dayfly.Snapshot
	guest    http.Handler
	dial     func(context.Context) (net.Conn, error) // if set, instead of guest
	imported []byte
	options  dayfly.CreateOptions // of the last Create
	query    dayfly.Query         // of the last List
	parents  []dayfly.ID          // of forks and snapshots asked for
}

func newFake() *fake { return &fake{of: map[dayfly.ID]dayfly.Workspace{}} }

var timeline = dayfly.Timeline{
	{Name: "image", At: 0.1, Took: 0.4},
	{Name: "guest", At: 0.5, Took: 100},
	{Name: "mount root", At: 20, Took: 5.25, Within: "guest"},
}

func (f *fake) Create(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error) {
	f.options = o
	if f.hold != nil {
		f.created <- ""
		<-f.hold
	}
	if f.err != nil {
		return dayfly.Workspace{}, f.err
	}
	ws := dayfly.Workspace{
		ID: dayfly.NewID(), Name: spec.Name, State: dayfly.Running, Spec: spec, Image: dayfly.Image{Name: spec.Image},
		StartKind: dayfly.Cold, Accel: dayfly.TCG, CreatedAt: time.Now(), Timeline: timeline, Namespace: dayfly.CallerOf(ctx).Home(),
	}
	f.mu.Lock()
	f.of[ws.ID] = ws
	f.mu.Unlock()
	return ws, nil
}

func (f *fake) set(id dayfly.ID, to dayfly.State) (dayfly.Workspace, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ws, ok := f.of[id]
	if !ok {
		return ws, dayfly.Errorf(dayfly.NotFound, "no workspace %s", id)
	}
	if to != "" {
		if err := ws.State.To(to); err != nil {
			return ws, err
		}
		ws.State = to
		f.of[id] = ws
	}
	return ws, nil
}

func (f *fake) Start(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	if ws, err := f.set(id, ""); err == nil && ws.State == dayfly.Running { // only a rollback leads from there to creating
		return ws, dayfly.Errorf(dayfly.Conflict, "workspace %s is running", id)
	}
	if _, err := f.set(id, dayfly.Creating); err != nil {
		return dayfly.Workspace{}, err
	}
	return f.set(id, dayfly.Running)
}

func (f *fake) Stop(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return f.set(id, dayfly.Stopped)
}

func (f *fake) Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	ws, err := f.set(id, "")
	if err == nil && !dayfly.CallerOf(ctx).Sees(ws) {
		err = dayfly.Errorf(dayfly.NotFound, "no workspace %s", id)
	}
	return ws, err
}

func (f *fake) List(ctx context.Context, q dayfly.Query) (dayfly.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.query = q
	var p dayfly.Page
	for _, ws := range f.of {
		if dayfly.CallerOf(ctx).Sees(ws) {
			p.Workspaces = append(p.Workspaces, ws)
		}
	}
	return p, nil
}

func (f *fake) Resolve(ctx context.Context, ref string) (dayfly.ID, error) {
	p, _ := f.List(ctx, dayfly.Query{})
	for _, ws := range p.Workspaces {
		if string(ws.ID) == ref || ws.Name == ref || len(ref) >= 4 && strings.HasPrefix(string(ws.ID), ref) {
			return ws.ID, nil
		}
	}
	return "", dayfly.Errorf(dayfly.NotFound, "no workspace %s", ref)
}

func (f *fake) Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	if _, err := f.Stop(ctx, id); err != nil {
		return dayfly.Workspace{}, err
	}
	return f.Start(ctx, id)
}

func (f *fake) Update(ctx context.Context, id dayfly.ID, u dayfly.Update) (dayfly.Workspace, error) {
	ws, err := f.Get(ctx, id)
	if u.Name != nil {
		ws.Name = *u.Name
	}
	return ws, err
}

func (f *fake) KeepAlive(ctx context.Context, id dayfly.ID, timeout *int) (dayfly.Workspace, error) {
	ws, err := f.Get(ctx, id)
	if timeout != nil {
		end := time.Unix(int64(*timeout), 0).UTC()
		ws.ExpiresAt = &end
	}
	return ws, err
}

func (f *fake) Delete(_ context.Context, id dayfly.ID) error {
	_, err := f.set(id, dayfly.Deleted)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.of, id)
	return err
}

func (f *fake) Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error) {
	ws, err := f.Get(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case ws.State != dayfly.Running:
		return nil, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s", id, ws.State)
	case port != wire.AgentPort:
		return nil, dayfly.Errorf(dayfly.Unavailable, "nothing listens on port %d", port)
	case f.dial != nil:
		return f.dial(ctx)
	}
	return dialHandler(f.guest)
}

// dialHandler returns a loopback TCP connection to a server of h, which ends
// with it.
func dialHandler(h http.Handler) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	_ = l.Close()
	if err != nil {
		return nil, err
	}
	go func() { _ = (&http.Server{Handler: h}).Serve(&oneConn{conn: far}) }()
	return conn, nil
}

// oneConn is a listener that yields one connection.
type oneConn struct {
	conn net.Conn
	once sync.Once
}

func (l *oneConn) Accept() (c net.Conn, err error) {
	err = io.EOF
	l.once.Do(func() { c, err = l.conn, nil })
	return c, err
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// fakeImages and fakeKernels do as they are told by the names given to them.
type fakeImages struct{ f *fake }

func (fakeImages) List(context.Context) ([]dayfly.Image, error) {
	return []dayfly.Image{{Name: "b"}, {Name: "a"}}, nil
}

func (fakeImages) Get(_ context.Context, name string) (dayfly.Image, error) {
	if name == "none" {
		return dayfly.Image{}, dayfly.Errorf(dayfly.NotFound, "no image %s", name)
	}
	return dayfly.Image{Name: name}, nil
}

func (fakeImages) Remove(context.Context, string) error { return nil }

func (fakeImages) Pull(ctx context.Context, p PullImage, report Report) (dayfly.Image, error) {
	if p.Reference == "bad" {
		return dayfly.Image{}, dayfly.Errorf(dayfly.Invalid, "bad is no reference")
	}
	report(dayfly.Progress{Step: "layer", Done: 1, Total: 4})
	if p.Reference == "wait" {
		<-ctx.Done()
		return dayfly.Image{}, ctx.Err()
	}
	report(dayfly.Progress{Step: "layer", Done: 4, Total: 4})
	if p.Reference == "broken" {
		return dayfly.Image{}, &dayfly.Error{Kind: dayfly.Unavailable, Msg: "registry: connection lost", Stage: "pull", Err: io.ErrUnexpectedEOF}
	}
	return dayfly.Image{Name: p.Reference, Platform: p.Platform}, nil
}

func (i fakeImages) Import(_ context.Context, p ImportImageParams, archive io.Reader, report Report) ([]dayfly.Image, error) {
	report(dayfly.Progress{Step: "read"}) // before the body has been read
	b, err := io.ReadAll(archive)
	i.f.imported = b
	return []dayfly.Image{{Name: p.Name, Platform: p.Platform, Size: int64(len(b))}}, err
}

func (fakeImages) Build(_ context.Context, b BuildImage, _ Report) (dayfly.Image, error) {
	return dayfly.Image{Name: b.Recipe}, nil
}

type fakeKernels struct{}

func (fakeKernels) List(context.Context) ([]dayfly.Kernel, error) {
	return []dayfly.Kernel{{ID: "a"}, {ID: "b", Preferred: true}}, nil
}

func (fakeKernels) Import(_ context.Context, deb io.Reader, _ Report) (dayfly.Kernel, error) {
	b, err := io.ReadAll(deb)
	return dayfly.Kernel{ID: string(b)}, err
}

func (fakeKernels) Build(context.Context, Report) (dayfly.Kernel, error) {
	return dayfly.Kernel{Flavour: "tuned"}, nil
}

func (*fake) Checks(context.Context) []dayfly.Check {
	return []dayfly.Check{{Name: "kvm", Status: dayfly.Lacking, Detail: "no", Remedy: "buy"}}
}

// serve starts a server over f and returns its base URL.
func serve(t *testing.T, f *fake) string {
	t.Helper()
	s := New(Options{Workspaces: f, Snapshots: f, Guests: f, Images: fakeImages{f}, Kernels: fakeKernels{}, Host: f, System: f})
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		srv.Close()
		_ = s.Close()
	})
	return srv.URL
}

// call makes one request and returns the reply with its body read.
func call(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}
