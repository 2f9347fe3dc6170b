package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

// serving is a whole server over a fake host, in this process.
type serving struct {
	*fakehost.Host
	address, web string // unix and http
}

func newServing(t *testing.T, change func(*api.Options)) *serving {
	t.Helper()
	h := fakehost.New()
	o := h.ServerOptions()
	if change != nil {
		change(&o)
	}
	s := api.New(o)
	path := filepath.Join(t.TempDir(), "s")
	local, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	web, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for l, mark := range map[net.Listener]func(context.Context) context.Context{local: api.TrustLocal, web: api.OnLoopback} {
		hs := &http.Server{Handler: s, ReadHeaderTimeout: headerTimeout, BaseContext: func(net.Listener) context.Context { return mark(context.Background()) }}
		go func() { _ = hs.Serve(l) }()
		t.Cleanup(func() { _ = hs.Close() })
	}
	t.Cleanup(func() { _ = s.Close(); _ = h.Close() })
	return &serving{h, "unix://" + path, "http://" + web.Addr().String()}
}

func (s *serving) has(t *testing.T, spec dayfly.Spec) dayfly.Workspace {
	t.Helper()
	ws, err := s.Create(t.Context(), spec, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// TestWhatGoesOnEndsWithCtrlC as every command does: 130, and at once.
func TestWhatGoesOnEndsWithCtrlC(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	s := newServing(t, nil)
	s.has(t, dayfly.Spec{Image: fakehost.Base, Name: "mayfly"})
	for _, tc := range []struct{ args, first string }{
		{"ls --watch", "mayfly"},
		{"ls --watch --json", "mayfly"},
		{"events -f", "workspace.created"},
		{"events -f --json", "workspace.created"},
		{"logs -f mayfly", "three"},
		{"top", "mayfly"},
		{"top --json", "mayfly"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			c := exec.CommandContext(t.Context(), "dayfly", append([]string{"--host", s.address}, strings.Fields(tc.args)...)...)
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for lines.Scan() && !strings.Contains(lines.Text(), tc.first) {
			}
			if !strings.Contains(lines.Text(), tc.first) {
				t.Fatalf("the last line is %q, want %s", lines.Text(), tc.first)
			}
			if err := c.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out)
			_ = c.Wait()
			if code := c.ProcessState.ExitCode(); code != 130 {
				t.Errorf("exit code %d, want 130", code)
			}
		})
	}
}

func TestWatchedListChangesInPlace(t *testing.T) {
	t.Parallel()
	s := newServing(t, nil)
	ws := s.has(t, dayfly.Spec{Image: fakehost.Base, Name: "mayfly"})
	p := onTerminal(t, "ls", "--watch", "--host", s.address)
	p.sees(t, "running")
	name := "caddis"
	if _, err := s.Update(t.Context(), ws.ID, dayfly.Update{Name: &name}); err != nil {
		t.Fatal(err)
	}
	p.sees(t, name)
	if !strings.Contains(p.seen.String(), "\x1b[2A") {
		t.Errorf("drawn below what was there: %q", &p.seen)
	}
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.ends(t, 130)
}

func TestShellIsOnTheTerminal(t *testing.T) {
	t.Parallel()
	s := newServing(t, nil)
	s.has(t, dayfly.Spec{Image: fakehost.Base, Name: "mayfly", User: "root"})
	p := onTerminal(t, "shell", "-e", "MORE=42", "--host", s.address, "mayfly")
	p.types(t, "echo is-$MORE\n")
	p.sees(t, "is-42")
	p.types(t, "exit 7\n")
	p.ends(t, 7)
}

// TestTypedKeyIsNotShown, nor is the terminal left silent by Ctrl-C.
func TestTypedKeyIsNotShown(t *testing.T) {
	t.Parallel()
	s := newServing(t, nil)
	t.Run("typed", func(t *testing.T) {
		t.Parallel()
		config := t.TempDir()
		p := onTerminalWith(t, []string{"XDG_CONFIG_HOME=" + config}, "login", s.web)
		p.sees(t, "API key: ")
		p.hidden(t)
		p.types(t, fakehost.AdminKey+"\n")
		p.sees(t, "logged in to "+s.web+" as an admin")
		if strings.Contains(p.seen.String(), fakehost.AdminKey) {
			t.Errorf("the key was on the screen: %q", &p.seen)
		}
		p.ends(t, 0)
		if _, err := os.Stat(filepath.Join(config, "dayfly", "login.yaml")); err != nil {
			t.Error(err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		p := onTerminalWith(t, []string{"XDG_CONFIG_HOME=" + t.TempDir()}, "login", s.web)
		p.sees(t, "API key: ")
		p.hidden(t)
		p.types(t, "\x03")
		p.ends(t, 130)
	})
}

func clientOf(t *testing.T, address string) *client.Client {
	t.Helper()
	cl, err := client.New(client.Options{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// sparse are events with gaps, of which it is counted how often they are asked for.
type sparse struct {
	seqs  []int64
	asked int
}

func (s *sparse) LastEvent(context.Context) (int64, error) { return 0, nil } // not asked here

func (s *sparse) AwaitEvent(ctx context.Context, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s *sparse) Events(_ context.Context, q dayfly.EventQuery) (list []dayfly.Event, _ error) {
	s.asked++
	for _, seq := range s.seqs {
		if seq > q.After && len(list) < q.Limit {
			list = append(list, dayfly.Event{Seq: seq, Type: dayfly.WorkspaceCreated})
		}
	}
	return list, nil
}

// TestLastEventIsFoundInFewSteps: following what is new does not read the past.
func TestLastEventIsFoundInFewSteps(t *testing.T) {
	t.Parallel()
	var many []int64
	for i := range int64(5000) {
		many = append(many, 3*i+1)
	}
	for _, seqs := range [][]int64{nil, {1}, {7}, {1, 2, 3}, {1, 1 << 40}, many} {
		events := &sparse{seqs: seqs}
		s := newServing(t, func(o *api.Options) { o.Events = events })
		cl := clientOf(t, s.address)
		var want int64
		if len(seqs) > 0 {
			want = seqs[len(seqs)-1]
		}
		if got, err := lastEvent(t.Context(), cl); got != want || err != nil {
			t.Errorf("last of %d events is %d, %v, want %d", len(seqs), got, err, want)
		}
		if events.asked > 100 {
			t.Errorf("asked %d times for %d events", events.asked, len(seqs))
		}
	}
}
