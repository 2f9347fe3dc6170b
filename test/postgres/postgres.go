// Package postgres starts real PostgreSQL servers for tests.
//
// A server is private: it listens on a Unix socket in a directory of its own
// and nowhere else, lets everybody in who reaches that, and sorts text by a
// language's rules rather than by bytes, as many servers out there do. It dies
// with the test process and leaves nothing behind but, where that is killed, its
// directory. PostgreSQL does not run as root: there it is run as the user
// postgres or nobody.
//
// Start gives a test a server of its own, to be stopped and started. Shared is
// one for a whole test binary, whose TestMain has to call Main.
package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/dayfly/dayfly/test/needs"
)

const (
	superuser = "dayfly"
	ready     = "database system is ready to accept connections"
)

// Server is a PostgreSQL server. Stop, Run and Restart are for one test at a
// time.
type Server struct {
	bin, dir string
	setting  string
	cred     *syscall.Credential // nil: the tests' own

	process  *exec.Cmd  // nil: stopped
	ended    chan error // what waiting for it returned
	database atomic.Int64
}

// Start returns a running server that ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	// A server that is killed loses nothing of what the kernel has, and comes
	// back in a tenth of the time.
	s, err := start(needs.Postgres(t), "fsync=off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Shared returns the server of this test binary. Leave it running.
func Shared(t testing.TB) *Server {
	t.Helper()
	bin := needs.Postgres(t)
	shared.once.Do(func() { shared.server, shared.err = start(bin, "fsync=on") })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// Main runs the tests and then ends the shared server, if there is one. It
// returns the exit code.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return max(code, 1)
		}
	}
	return code
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	name := fmt.Sprintf("test%d", s.database.Add(1))
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return s.url(name)
}

func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// start makes a cluster and runs it.
func start(bin, setting string) (*Server, error) {
	dir, err := os.MkdirTemp("", "pg-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir, setting: setting}
	if err := s.make(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.run(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *Server) make() error {
	if os.Geteuid() == 0 {
		cred, err := unprivileged()
		if err != nil {
			return err
		}
		if err := os.Chown(s.dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return err
		}
		s.cred = cred
	}
	out, err := s.command("initdb", "-D", s.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--no-sync",
		"--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command has none of the environment of the tests, which may point elsewhere.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + s.bin + ":/usr/bin:/bin", "LANG=C.UTF-8"}
	// SIGQUIT makes the server end at once, its other processes as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

func unprivileged() (*syscall.Credential, error) {
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(errUID, errGID)
	}
	return nil, errors.Join(errs...)
}

// run starts the server and waits until it accepts connections.
func (s *Server) run() error {
	cmd := s.command("postgres", "-D", s.data(), "-k", s.dir,
		"-c", "listen_addresses=", "-c", "max_connections=400", "-c", "shared_buffers=32MB", "-c", "unix_socket_permissions=0777", "-c", s.setting)
	if s.cred != nil {
		// initdb made the directory for its user alone; whoever runs the tests has to reach the socket.
		if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // G302: the data directory in it stays closed
			return err
		}
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	said, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			said <- err
			return
		}
		s.process, s.ended = cmd, ended
		listen(out, said) // until all that hold its output have ended
		ended <- cmd.Wait()
	}()
	if err := <-said; err != nil {
		return errors.Join(err, s.stop())
	}
	return nil
}

// listen reads what the server says until its end, so that it never waits for a
// reader. It sends nil when the server is ready, or what it said if it ends before.
func listen(out io.Reader, said chan<- error) {
	var log bytes.Buffer
	lines, isReady := bufio.NewScanner(out), false
	for lines.Scan() {
		if isReady {
			continue
		}
		fmt.Fprintln(&log, lines.Text())
		if isReady = strings.Contains(lines.Text(), ready); isReady {
			said <- nil
		}
	}
	if !isReady {
		said <- fmt.Errorf("postgres did not start: %s", log.String())
	}
}

// Stop ends the server in the middle of whatever it does.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
}

// Run starts a stopped server again, with the same address.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

// Restart is Stop and Run.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.Run(t)
}

// stop is repeatable. That the server was told to end is no error.
func (s *Server) stop() error {
	if s.process == nil {
		return nil
	}
	_ = s.process.Process.Signal(syscall.SIGQUIT)
	err := <-s.ended
	s.process = nil
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func (s *Server) remove() error { return errors.Join(s.stop(), os.RemoveAll(s.dir)) }
