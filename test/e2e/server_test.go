package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	words "github.com/dayfly/dayfly" // dayfly is a function here
	"github.com/dayfly/dayfly/client"
)

// server is a dayfly serve with its log.
type server struct {
	*client.Client
	state, host string
	cmd         *exec.Cmd

	mu    sync.Mutex
	lines []string
	ended bool
	more  *sync.Cond // lines or ended have changed
}

// serve starts a server whose workspaces end with it, and which holds no standby
// machines unless the flags ask for some, and returns once it listens. At the end
// of the test all its workspaces and snapshots are deleted, which must go well,
// and it ends.
func serve(t *testing.T, state string, flags ...string) *server {
	t.Helper()
	return serveOn(t, state, append([]string{"--ephemeral"}, flags...)...)
}

// serveOn is serve for a server whose workspaces go on without it.
func serveOn(t *testing.T, state string, flags ...string) *server {
	t.Helper()
	return serveBy(t, binary(t), state, flags...)
}

// serveBy is serveOn with another build of the program.
func serveBy(t *testing.T, program, state string, flags ...string) *server {
	t.Helper()
	s := &server{state: state, host: "unix://" + filepath.Join(state, "dayfly.sock")}
	s.more = sync.NewCond(&s.mu)
	args := []string{"serve", "--log-level", "debug", "--standby", "0", "--listen", s.host}
	s.cmd = command(t, context.WithoutCancel(t.Context()), state, append(args, flags...)...)
	s.cmd.Path = program
	logs, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.read(logs)
	t.Cleanup(func() { s.clear(t); s.stop(t) })
	if !s.logged(0, has("msg=listening")) {
		t.Fatalf("it does not listen:\n%s", s.log())
	}
	if s.Client, err = client.New(client.Options{Address: s.host}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) read(logs io.Reader) {
	for in := bufio.NewScanner(logs); in.Scan(); {
		s.mu.Lock()
		s.lines = append(s.lines, in.Text())
		s.mu.Unlock()
		s.more.Broadcast()
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.more.Broadcast()
}

// tcp is the server's address for those who need a key.
func (s *server) tcp(t *testing.T) string {
	t.Helper()
	address := ""
	if !s.logged(0, func(line string) bool {
		_, after, found := strings.Cut(line, "msg=listening address=http://")
		address, _, _ = strings.Cut(after, " ")
		return found
	}) {
		t.Fatalf("it listens on no TCP address:\n%s", s.log())
	}
	return "http://" + address
}

func has(text string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, text) }
}

// patience is how long anything is waited for.
const patience = 2 * time.Minute

// logged waits for a line of the log, from line number from on, that is wanted.
// False: the log ended before, or there was none for long.
func (s *server) logged(from int, wanted func(line string) bool) bool {
	deadline := time.Now().Add(patience)
	defer time.AfterFunc(patience, s.wake).Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for ; from < len(s.lines); from++ {
			if wanted(s.lines[from]) {
				return true
			}
		}
		if s.ended || time.Now().After(deadline) {
			return false
		}
		s.more.Wait()
	}
}

// wake lets those who wait look at the clock.
func (s *server) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.more.Broadcast()
}

// drained waits for the end of the log: nobody holds it any more.
func (s *server) drained() { s.logged(0, func(string) bool { return false }) }

// mark is the number of the log's next line.
func (s *server) mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lines)
}

// since returns the log from line number from on.
func (s *server) since(from int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines[from:])
}

func (s *server) log() string { return strings.Join(s.since(0), "\n") }

// kill ends the server as a power cut would, and waits until nobody holds its
// log any more: the VMMs go with it.
func (s *server) kill(t *testing.T) {
	t.Helper()
	_ = s.cmd.Process.Kill()
	s.drained()
	_ = s.cmd.Wait()
}

// stop ends the server in order, if it runs.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	s.drained()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v:\n%s", err, s.log())
	}
}

// clear deletes all there is, if the server runs.
func (s *server) clear(t *testing.T) {
	t.Helper()
	if s.cmd.ProcessState != nil || s.Client == nil {
		return
	}
	s.clearWorkspaces(t)
	ctx, cancel := clearing(t)
	defer cancel()
	snaps, err := s.Snapshots.List(ctx, "")
	if err != nil {
		t.Errorf("list: %v", err)
	}
	for _, sn := range snaps {
		if err := s.Snapshots.Delete(ctx, string(sn.ID)); err != nil {
			t.Errorf("delete of a snapshot: %v", err)
		}
	}
}

// clearing outlives the test's context, which has ended when things are cleared.
func clearing(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
}

func (s *server) clearWorkspaces(t *testing.T) {
	t.Helper()
	ctx, cancel := clearing(t)
	defer cancel()
	list, err := s.Workspaces.List(ctx)
	if err != nil {
		t.Errorf("list: %v", err)
	}
	for _, ws := range list {
		err := s.Workspaces.Delete(ctx, ws.ID)
		if err != nil && words.KindOf(err) != words.NotFound { // a server goes on with deletions by itself
			t.Errorf("delete of a workspace that is %s: %v", ws.State, err)
		}
	}
}

// run runs a command line against the server, to its end.
func (s *server) run(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	c := command(t, t.Context(), s.state, args...)
	c.Env = append(c.Env, "DAYFLY_HOST="+s.host)
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// must is run for what has to go well. It returns the words of the output.
func (s *server) must(t *testing.T, args ...string) []string {
	t.Helper()
	r := s.run(t, args...)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("%q = %+v\n%s", args, r, tailOf(s.log()))
	}
	return strings.Fields(r.stdout)
}

func tailOf(log string) string { return log[max(0, len(log)-6000):] }

// sh runs a shell command in a workspace and returns what it printed.
func (s *server) sh(t *testing.T, id words.ID, script string, args ...string) string {
	t.Helper()
	line := append([]string{"exec", "--timeout", "60s", string(id), "--", "sh", "-c", script, "sh"}, args...)
	r := s.run(t, line...)
	if r.code != 0 {
		t.Fatalf("in %s: exit %d; stderr: %s; stdout: %s; script: %s\n%s", id, r.code, r.stderr, r.stdout, script, tailOf(s.log()))
	}
	return r.stdout
}

// create makes a workspace of base that is to be kept.
func (s *server) create(t *testing.T) words.ID {
	t.Helper()
	ws, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 256, Keep: true})
	if err != nil {
		t.Fatalf("create: %v\n%s", err, tailOf(s.log()))
	}
	return ws.ID
}

func (s *server) isIn(t *testing.T, id words.ID) words.State {
	t.Helper()
	ws, err := s.Workspaces.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return ws.State
}

func idOf(t *testing.T, text string) words.ID {
	t.Helper()
	id, err := words.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
