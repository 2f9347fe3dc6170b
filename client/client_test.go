package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

// serve returns a client of a server over a fake host.
func serve(t *testing.T) (*client.Client, *fakehost.Host) {
	t.Helper()
	h := fakehost.New()
	s := api.New(h.Options())
	srv := httptest.NewServer(s)
	c, err := client.New(client.Options{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		_ = h.Close()
		srv.Close()
		_ = s.Close()
	})
	return c, h
}

// workspace returns a running workspace, whose commands run on this machine
// as root.
func workspace(t *testing.T, c *client.Client) dayfly.ID {
	t.Helper()
	needs.Root(t)
	ws, err := c.Workspaces.Create(t.Context(), dayfly.Spec{Image: fakehost.Base, User: "root", Env: map[string]string{"COLOUR": "green"}})
	if err != nil {
		t.Fatal(err)
	}
	return ws.ID
}

func kindIs(t *testing.T, err error, kind dayfly.Kind) *dayfly.Error {
	t.Helper()
	var e *dayfly.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("error %v (%T), want one of kind %s", err, err, kind)
	}
	return e
}

func TestLifeOfAWorkspace(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ctx := t.Context()
	ws, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: fakehost.Base, Name: "mayfly"})
	if err != nil || ws.State != dayfly.Running || ws.Name != "mayfly" || !slices.Equal(ws.Timeline, fakehost.Timeline) {
		t.Fatalf("Create = %+v, %v", ws, err)
	}
	if got, err := c.Workspaces.Get(ctx, ws.ID); err != nil || got.ID != ws.ID {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if list, err := c.Workspaces.List(ctx); err != nil || len(list) != 1 {
		t.Errorf("List = %+v, %v", list, err)
	}
	if got, err := c.Workspaces.Stop(ctx, ws.ID); err != nil || got.State != dayfly.Stopped {
		t.Errorf("Stop = %+v, %v", got, err)
	}
	if got, err := c.Workspaces.Start(ctx, ws.ID); err != nil || got.State != dayfly.Running {
		t.Errorf("Start = %+v, %v", got, err)
	}
	if err := c.Workspaces.Delete(ctx, ws.ID); err != nil {
		t.Error(err)
	}
	kindIs(t, c.Workspaces.Delete(ctx, ws.ID), dayfly.NotFound)
}

func TestErrorsComeBackWhole(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	_, err := c.Workspaces.Create(t.Context(), dayfly.Spec{Image: fakehost.Broken})
	e := kindIs(t, err, dayfly.Unavailable)
	if e.Stage != "vmm" || e.Msg != "no VMM: install one" || strings.Contains(err.Error(), fakehost.Secret) {
		t.Errorf("error %+v", e)
	}
	_, err = c.Workspaces.Create(t.Context(), dayfly.Spec{Image: fakehost.Base, CPUs: 99})
	kindIs(t, err, dayfly.Invalid)
}

func TestCancelledCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	c, h := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-h.Starting()
		cancel()
	}()
	if _, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: fakehost.Slow}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v", err)
	}
	if page, _ := h.List(t.Context(), dayfly.Query{}); len(page.Workspaces) != 0 {
		t.Errorf("left behind: %v", page.Workspaces)
	}
}

func TestServerThatIsNotThereIsUnavailable(t *testing.T) {
	t.Parallel()
	c, err := client.New(client.Options{Address: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Workspaces.List(t.Context())
	if e := kindIs(t, err, dayfly.Unavailable); !strings.HasPrefix(e.Msg, "server: ") {
		t.Errorf("message %q", e.Msg)
	}
}

func TestServerThatIsNotOursIsNamed(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	c, _ := client.New(client.Options{Address: srv.URL})
	_, err := c.Workspaces.List(t.Context())
	kindIs(t, err, dayfly.Unavailable)
}

func TestBadAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for _, a := range []string{"", "unix://relative", "ftp://host", "localhost:7070", "http://", "http://%zz"} {
		_, err := client.New(client.Options{Address: a})
		kindIs(t, err, dayfly.Invalid)
	}
}

func TestUnixSocketsWork(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: api.New(fakehost.New().Options())}}
	srv.Start()
	defer srv.Close()
	c, _ := client.New(client.Options{Address: "unix://" + path})
	if v, err := c.Host.Version(t.Context()); err != nil || v != dayfly.Version {
		t.Errorf("Version = %q, %v", v, err)
	}
	if checks, err := c.Host.Checks(t.Context()); err != nil || len(checks) != 2 {
		t.Errorf("Checks = %+v, %v", checks, err)
	}
}

func TestImagesAndKernels(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ctx := t.Context()
	var steps []string
	report := func(p dayfly.Progress) { steps = append(steps, fmt.Sprint(p.Step, p.Done)) }
	im, err := c.Images.Pull(ctx, "registry.example/a/b:1", "linux/amd64", report)
	if err != nil || im.Name != "registry.example/a/b:1" || !slices.Equal(steps, []string{"layer0", "layer1048576"}) {
		t.Errorf("Pull = %+v, %v, %v", im, err, steps)
	}
	if got, err := c.Images.Get(ctx, im.Name); err != nil || got.Name != im.Name {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if list, err := c.Images.List(ctx); err != nil || len(list) != 2 {
		t.Errorf("List = %+v, %v", list, err)
	}
	if err := c.Images.Remove(ctx, im.Name); err != nil {
		t.Error(err)
	}
	kindIs(t, c.Images.Remove(ctx, im.Name), dayfly.NotFound)
	_, err = c.Images.Pull(ctx, fakehost.Private, "", nil)
	kindIs(t, err, dayfly.Denied)
	if list, err := c.Images.Import(ctx, strings.NewReader("archive"), client.ImportOptions{Name: "x"}, nil); err != nil || len(list) != 1 || list[0].Size != 7 {
		t.Errorf("Import = %+v, %v", list, err)
	}
	_, err = c.Images.Import(ctx, strings.NewReader(""), client.ImportOptions{}, nil)
	kindIs(t, err, dayfly.Invalid)
	if im, err := c.Images.Build(ctx, "base", nil); err != nil || im.Name != "base" {
		t.Errorf("Build = %+v, %v", im, err)
	}
	if k, err := c.Kernels.Import(ctx, strings.NewReader("deb"), nil); err != nil || k.ID != "deb-3" {
		t.Errorf("Import = %+v, %v", k, err)
	}
	if k, err := c.Kernels.Build(ctx, nil); err != nil || k.ID != "built" {
		t.Errorf("Build = %+v, %v", k, err)
	}
	if list, err := c.Kernels.List(ctx); err != nil || len(list) != 2 || !list[0].Preferred {
		t.Errorf("List = %+v, %v", list, err)
	}
}

// result is what a command did.
type result struct {
	stdout, stderr bytes.Buffer
	exit           client.Exit
}

func run(t *testing.T, c *client.Client, id dayfly.ID, cmd client.Command) *result {
	t.Helper()
	r := &result{}
	cmd.Stdout, cmd.Stderr = &r.stdout, &r.stderr
	p, err := c.Start(t.Context(), id, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if r.exit, err = p.Wait(); err != nil {
		t.Fatal(err)
	}
	return r
}

func sh(script string) client.Command {
	return client.Command{Path: "sh", Args: []string{"-c", script}}
}

func TestCommandsAreLikeThoseOfAShell(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	withEnv := sh("echo $COLOUR $MORE")
	withEnv.Env = map[string]string{"MORE": "or less"}
	inDir := sh("pwd")
	inDir.Dir = dir
	withInput := sh("wc -c")
	withInput.Stdin = strings.NewReader("twelve bytes")
	for _, tc := range []struct {
		name           string
		cmd            client.Command
		stdout, stderr string
		exit           client.Exit
	}{
		{"streams apart", sh("echo out; echo err >&2"), "out\n", "err\n", client.Exit{}},
		{"exit code", sh("exit 42"), "", "", client.Exit{Code: 42}},
		{"signal", sh("kill -KILL $$"), "", "", client.Exit{Code: 137, Signal: 9}},
		{"env", withEnv, "green or less\n", "", client.Exit{}},
		{"dir", inDir, dir + "\n", "", client.Exit{}},
		{"stdin", withInput, "12\n", "", client.Exit{}},
		{"no stdin", sh("wc -c"), "0\n", "", client.Exit{}},
		{"no newline", sh("printf x"), "x", "", client.Exit{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := run(t, c, id, tc.cmd)
			if r.stdout.String() != tc.stdout || r.stderr.String() != tc.stderr || r.exit != tc.exit {
				t.Errorf("%q, %q, %+v", &r.stdout, &r.stderr, r.exit)
			}
		})
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	for _, tc := range []struct {
		path string
		code int
	}{{"no-such-command-anywhere", 127}, {"/etc/passwd", 126}, {"/no/such/file", 127}} {
		_, err := c.Start(t.Context(), id, client.Command{Path: tc.path})
		if code, ok := client.ExitCode(err); !ok || code != tc.code {
			t.Errorf("%s: exit code %d of %v, want %d", tc.path, code, err, tc.code)
		}
		kindIs(t, err, dayfly.Invalid)
	}
	_, err := c.Start(t.Context(), id, client.Command{Path: "true", User: "nobody-by-that-name"})
	if _, ok := client.ExitCode(err); ok {
		t.Errorf("an unknown user is %v, a command's exit code", err)
	}
	_, err = c.Start(t.Context(), dayfly.NewID(), sh("true"))
	kindIs(t, err, dayfly.NotFound)
	if _, err := c.Workspaces.Stop(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	_, err = c.Start(t.Context(), id, sh("true"))
	kindIs(t, err, dayfly.Conflict)
}

func TestLargeInputIsStreamedAndWhole(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	const size = 16 << 20
	cmd := sh("wc -c")
	cmd.Stdin = io.LimitReader(rand.Reader, size)
	if r := run(t, c, id, cmd); strings.TrimSpace(r.stdout.String()) != fmt.Sprint(size) {
		t.Errorf("%s bytes arrived", &r.stdout)
	}
	in := make([]byte, 3<<20)
	_, _ = rand.Read(in)
	cmd = client.Command{Path: "cat", Stdin: bytes.NewReader(in)}
	if r := run(t, c, id, cmd); !bytes.Equal(r.stdout.Bytes(), in) {
		t.Errorf("%d bytes came back of %d, or others", r.stdout.Len(), len(in))
	}
}

func TestCommandThatReadsNoInputEnds(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	r, w := io.Pipe()
	defer w.Close()
	cmd := sh("exit 3")
	cmd.Stdin = r // never written, never closed
	if got := run(t, c, id, cmd); got.exit.Code != 3 {
		t.Errorf("exit %+v", got.exit)
	}
	cmd = sh("head -c 1 >/dev/null")
	cmd.Stdin = io.LimitReader(rand.Reader, 64<<20) // far more than is read
	if got := run(t, c, id, cmd); got.exit.Code != 0 {
		t.Errorf("exit %+v", got.exit)
	}
}

// lines is a writer that tells of each line.
type lines struct {
	c   chan string
	buf []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.c <- strings.TrimRight(string(l.buf[:i]), "\r")
		l.buf = l.buf[i+1:]
	}
}

func TestSignalsArrive(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	out := &lines{c: make(chan string, 16)}
	cmd := sh("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done")
	cmd.Stdout = out
	p, err := c.Start(t.Context(), id, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if l := <-out.c; l != "ready" {
		t.Fatalf("it said %q", l)
	}
	if err := p.Signal(t.Context(), wire.Signal(10)); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 5 {
		t.Errorf("Wait = %+v, %v", exit, err)
	}
	kindIs(t, p.Signal(t.Context(), wire.SIGTERM), dayfly.NotFound)
}

func TestTerminalHasASizeThatChanges(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	out := &lines{c: make(chan string, 64)}
	cmd := sh("trap 'stty size; exit' WINCH; stty size; echo err >&2; while :; do sleep 0.01; done")
	cmd.Stdout, cmd.TTY = out, &client.Size{Cols: 99, Rows: 33}
	p, err := c.Start(t.Context(), id, cmd)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"33 99", "err"} {
		if l := <-out.c; l != want {
			t.Errorf("it said %q, want %q", l, want)
		}
	}
	if err := p.Resize(t.Context(), client.Size{Cols: 70, Rows: 20}); err != nil {
		t.Fatal(err)
	}
	if l := <-out.c; l != "20 70" {
		t.Errorf("it said %q", l)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestLostWorkspaceIsToldApartFromAnExit(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	c, _ := serve(t)
	ws, err := c.Workspaces.Create(t.Context(), dayfly.Spec{Image: fakehost.Doomed, User: "root"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Start(t.Context(), ws.ID, sh("echo x; sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	kindIs(t, err, dayfly.Unavailable)
	if exit != (client.Exit{}) {
		t.Errorf("exit %+v", exit)
	}
}

func TestWriterThatTakesNoMoreEndsTheWait(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	defer w.Close()
	cmd := sh("echo x; sleep 1000")
	cmd.Stdout = w
	p, err := c.Start(t.Context(), id, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err == nil {
		t.Error("nothing was noticed")
	}
}

func TestCancelledContextEndsTheWait(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	id := workspace(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := c.Start(ctx, id, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v", err)
	}
}

// TestNoneOfAThousandStreamsIsCut sends real commands of a real agent through
// the server, many at a time.
func TestNoneOfAThousandStreamsIsCut(t *testing.T) {
	t.Parallel()
	const streams, workers = 1000, 16
	c, _ := serve(t)
	id := workspace(t, c)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range streams / workers {
				want := fmt.Sprintf("%d of %d\n", i, w)
				var out bytes.Buffer
				p, err := c.Start(t.Context(), id, client.Command{Path: "echo", Args: []string{strings.TrimSpace(want)}, Stdout: &out})
				if err != nil {
					t.Errorf("start: %v", err)
					return
				}
				if exit, err := p.Wait(); err != nil || exit.Code != 0 || out.String() != want {
					t.Errorf("stream cut: %q, %+v, %v", &out, exit, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
