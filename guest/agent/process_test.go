package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/test/needs"
)

func TestCallerGetsAllOutputThenTheEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	got := run(t, r.cli, sh("echo out; echo err >&2; exit 3"))
	if got.stdout != "out\n" || got.stderr != "err\n" || got.end.ExitCode != 3 || !got.end.Exited ||
		got.end.Status != "exit status 3" || got.end.Error == nil {
		t.Errorf("got %+v", got)
	}
	if got := run(t, r.cli, sh("exit 0")); got.end.Error != nil || got.end.Status != "exit status 0" {
		t.Errorf("got %+v", got)
	}
	const size = 64 << 20
	if got := run(t, r.cli, sh(fmt.Sprintf("head -c %d /dev/zero", size))); len(got.stdout) != size {
		t.Errorf("%d bytes of %d", len(got.stdout), size)
	}
}

func TestSignalDeathIsTold(t *testing.T) {
	t.Parallel()
	got := run(t, newRig(t, Config{}).cli, sh("kill -TERM $$"))
	if n, ok := wire.SignalOf(got.end); !ok || n != 15 || got.end.ExitCode != -1 || got.end.Exited || got.end.Status != "signal: terminated" {
		t.Errorf("got %+v", got.end)
	}
}

// startProcess starts a process without HTTP.
func startProcess(t *testing.T, a *Agent, script string) (*process, *listener) {
	t.Helper()
	user, err := a.account("")
	if err != nil {
		t.Fatal(err)
	}
	req := sh(script)
	l, err := a.plan(user, req)
	if err != nil {
		t.Fatal(err)
	}
	p, first, err := a.start(l, req, -1)
	if err != nil {
		t.Fatal(err)
	}
	return p, first
}

func TestProcessWaitsForItsListenerAndNotForNobody(t *testing.T) {
	t.Parallel()
	a := New(Config{})
	defer a.Close()
	p, l := startProcess(t, a, "head -c 64000000 /dev/zero")
	eventually(t, "a full queue", func() bool { return len(l.frames) == listenerQueue })
	// The process cannot be ahead of its listener by more than the queue, the
	// chunk on its way, and the pipe; so it has not ended.
	if max := int64(listenerQueue+1) * chunkSize; p.outputs[0].passedOn.Load() > max {
		t.Errorf("%d bytes passed on, at most %d can be", p.outputs[0].passedOn.Load(), max)
	}
	select {
	case <-p.child.Done():
		t.Error("the process ended with 64 MB unread")
	default:
	}
	p.out.detach(l)
	<-p.done
}

func TestClientThatGoesLeavesTheProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	mark := filepath.Join(t.TempDir(), "mark")
	s, pid := begin(t, r.cli, wire.ProcessStart, sh("head -c 1000000 /dev/zero; echo done > "+mark))
	s.Close()
	eventually(t, "the end of an unheard process", func() bool { return exists(mark) })
	s, again := begin(t, r.cli, wire.ProcessConnect, wire.ConnectRequest{Process: &wire.ProcessSelector{PID: pid}})
	if got, err := finish(s, again); err != nil || again != pid || got.end.Status != "exit status 0" {
		t.Errorf("late connect: %+v, %v", got, err)
	}
}

func TestEveryListenerGetsTheSame(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	tag := "both"
	req := sh("read x; head -c 3000000 /dev/zero | tr '\\0' $x")
	req.Tag = &tag
	one, pid := begin(t, r.cli, wire.ProcessStart, req)
	two, same := begin(t, r.cli, wire.ProcessConnect, wire.ConnectRequest{Process: &wire.ProcessSelector{Tag: tag}})
	if pid != same {
		t.Fatalf("tag leads to %d, not %d", same, pid)
	}
	input := wire.Bytes("q\n")
	if err := r.cli.Unary(t.Context(), wire.ProcessSendInput, wire.SendInputRequest{
		Process: &wire.ProcessSelector{Tag: tag}, Input: &wire.ProcessInput{Stdin: &input}}, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, s := range []*wire.Stream{one, two} {
		wg.Go(func() {
			if got, err := finish(s, pid); err != nil || got.stdout != strings.Repeat("q", 3000000) {
				t.Errorf("%d bytes, %v", len(got.stdout), err)
			}
		})
	}
	wg.Wait()
}

func TestWhatIsLeftBehindNeitherHoldsTheEndNorDies(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	got := run(t, r.cli, sh("cd "+dir+"; (while ! test -e go; do sleep 0.01; done; echo more && touch alive) & echo started"))
	if got.stdout != "started\n" || got.end.Status != "exit status 0" {
		t.Fatalf("got %+v", got)
	}
	writeFile(t, filepath.Join(dir, "go"), "", 0o644)
	eventually(t, "the process left behind to write and go on", func() bool { return exists(filepath.Join(dir, "alive")) })
}

func TestDeadlineKillsTheGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s, err := r.cli.ServerStream(ctx, wire.ProcessStart, sh("sleep 1000 & echo $! $$ > "+pids+"; wait"))
	if err == nil {
		_, err = finish(s, 0)
		s.Close()
	}
	if wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	eventually(t, "an empty list", func() bool { return len(r.procs.list()) == 0 })
	if b, err := os.ReadFile(pids); err == nil {
		for _, pid := range strings.Fields(string(b)) {
			eventually(t, "the end of "+pid, func() bool { return gone(pid) })
		}
	}
}

// gone says whether a process has ended; one nobody has collected has.
func gone(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

func TestLifetimeOutlivesTheClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	s, pid := begin(t, clientWithTimeout(r.cli, "200"), wire.ProcessStart, sh("sleep 1000"))
	s.Close()
	eventually(t, "the end by its timer", func() bool { return len(r.procs.list()) == 0 })
	s, _ = begin(t, r.cli, wire.ProcessConnect, wire.ConnectRequest{Process: &wire.ProcessSelector{PID: pid}})
	if _, err := finish(s, pid); wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Errorf("late connect: %v", err)
	}
}

func clientWithTimeout(c *wire.Client, ms string) *wire.Client {
	with := *c
	with.Header = c.Header.Clone()
	with.Header.Set(wire.TimeoutHeader, ms)
	return &with
}

func TestKeepaliveOnAQuietStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	c := *r.cli
	c.Header = map[string][]string{wire.KeepaliveHeader: {"1"}}
	s, _ := begin(t, &c, wire.ProcessStart, sh("sleep 1000"))
	var ev wire.EventResponse
	if err := s.Receive(&ev); err != nil || ev.Event.Keepalive == nil {
		t.Errorf("got %+v, %v", ev, err)
	}
}

func TestCommandsThatCannotStartSayWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	nope, dirPath := "nope", dir
	for _, c := range []struct {
		name string
		conf wire.ProcessConfig
		exit int
		text string
	}{
		{"not in PATH", wire.ProcessConfig{Cmd: "no-such-command"}, 127, "not found in PATH"},
		{"no such file", wire.ProcessConfig{Cmd: dir + "/none"}, 127, "no such file"},
		{"below a file", wire.ProcessConfig{Cmd: "/etc/passwd/x"}, 127, "no such file"},
		{"a directory", wire.ProcessConfig{Cmd: dir}, 126, "is a directory"},
		{"not executable", wire.ProcessConfig{Cmd: writeFile(t, dir+"/plain", "x", 0o644)}, 126, "permission denied"},
		{"not executable in PATH", wire.ProcessConfig{Cmd: "plain", Envs: map[string]string{"PATH": dir}}, 126, "permission denied"},
		{"no interpreter", wire.ProcessConfig{Cmd: writeFile(t, dir+"/script", "#!/no/such/sh\n", 0o755)}, 127, "interpreter"},
		{"not a program", wire.ProcessConfig{Cmd: writeFile(t, dir+"/text", "plain text", 0o755)}, 126, "exec format"},
		{"too long", wire.ProcessConfig{Cmd: "/bin/true", Args: []string{strings.Repeat("x", 3<<20)}}, 126, "too long"},
		{"no directory", wire.ProcessConfig{Cmd: "/bin/true", Cwd: &nope}, 0, "does not exist"},
		{"nothing", wire.ProcessConfig{}, 0, "no command given"},
		{"NUL", wire.ProcessConfig{Cmd: "/bin/true", Args: []string{"\x00"}}, 0, "NUL"},
		{"bad variable", wire.ProcessConfig{Cmd: "/bin/true", Envs: map[string]string{"A=B": "c"}}, 0, "env"},
	} {
		err := startError(t, r.cli, &wire.StartRequest{Process: &c.conf})
		code, ok := wire.StartFailure(err)
		if wire.CodeOf(err) != wire.InvalidArgument || !strings.Contains(err.Error(), c.text) || ok != (c.exit != 0) || code != c.exit {
			t.Errorf("%s: got %v (exit %d)", c.name, err, code)
		}
	}
	// A relative program and directory are the process's, not the agent's.
	writeFile(t, dir+"/sub/tool", "#!/bin/sh\npwd\n", 0o755)
	for _, cmd := range []string{"./sub/tool", "sub/tool"} {
		got := run(t, r.cli, &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: cmd, Cwd: &dirPath}})
		if got.stdout != dir+"\n" {
			t.Errorf("%s: got %+v", cmd, got)
		}
	}
}

func TestEnvironmentHasItsOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	r.init(wire.Init{
		ID:      "w1",
		EnvVars: map[string]string{"B": "workspace", "C": "workspace", "E2B_TEMPLATE_ID": "base"},
		Config:  &dayfly.ImageConfig{Env: []string{"A=image", "B=image", "C=image", "PATH=/image:/usr/bin:/bin"}},
	})
	req := sh(`echo $A $B $C $PATH $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID`)
	req.Process.Envs = map[string]string{"C": "call", "E2B_SANDBOX": "no", "E2B_SANDBOX_ID": "no", "E2B_TEMPLATE_ID": "no"}
	if got := run(t, r.cli, req); got.stdout != "image workspace call /image:/usr/bin:/bin true w1 base\n" {
		t.Errorf("got %q", got.stdout)
	}
}

func TestImageCommandRunsWhenNoneIsGiven(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	r.init(wire.Init{Config: &dayfly.ImageConfig{Entrypoint: []string{"/bin/echo", "entry"}, Cmd: []string{"cmd"}, Workdir: dir}})
	if got := run(t, r.cli, &wire.StartRequest{}); got.stdout != "entry cmd\n" {
		t.Errorf("got %q", got.stdout)
	}
	if got := run(t, r.cli, &wire.StartRequest{Process: &wire.ProcessConfig{Args: []string{"mine"}}}); got.stdout != "entry mine\n" {
		t.Errorf("got %q", got.stdout)
	}
	if got := run(t, r.cli, sh("pwd")); got.stdout != dir+"\n" {
		t.Errorf("got %q", got.stdout)
	}
}

func TestProcessIsItsUser(t *testing.T) {
	needs.Root(t)
	t.Parallel()
	r := newRig(t, Config{})
	const show = `echo $(id -u):$(id -g):$(id -G) $HOME $USER $LOGNAME; echo again > /dev/stderr`
	for user, want := range map[string]string{
		"daemon":      "1:1:1 /usr/sbin daemon daemon\n",
		"1":           "1:1:1 /usr/sbin daemon daemon\n",
		"daemon:2":    "1:2:2 /usr/sbin daemon daemon\n",
		"daemon:bin":  "1:2:2 /usr/sbin daemon daemon\n",
		"54321:12345": "54321:12345:12345 / 54321 54321\n",
		"54321":       "54321:0:0 / 54321 54321\n",
		"root":        "0:0:0 /root root root\n",
		"":            "0:0:0 /root root root\n",
	} {
		got := run(t, r.as(user), sh(show))
		if got.stdout != want || got.stderr != "again\n" {
			t.Errorf("%q: got %q, %q, want %q", user, got.stdout, got.stderr, want)
		}
	}
	for _, user := range []string{"nobody-here", "daemon:no-such-group", "4294967295"} {
		if err := startError(t, r.as(user), sh("true")); wire.CodeOf(err) != wire.Unauthenticated {
			t.Errorf("%q: got %v", user, err)
		}
	}
	private := writeFile(t, filepath.Join(t.TempDir(), "p"), "#!/bin/sh\n", 0o700)
	if code, _ := wire.StartFailure(startError(t, r.as("daemon"), &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: private}})); code != 126 {
		t.Errorf("a private program: exit %d", code)
	}
	r.init(wire.Init{DefaultUser: "daemon"})
	if got := run(t, r.cli, sh("id -un")); got.stdout != "daemon\n" {
		t.Errorf("default user: %q", got.stdout)
	}
}

func TestProcessLeadsASessionOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	got := run(t, r.cli, sh("cut -d' ' -f5,6 /proc/$$/stat; cat /proc/$$/oom_score_adj"))
	if want := fmt.Sprintf("%d %d\n0\n", got.pid, got.pid); got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
}

func TestSignalsReachTheGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	s, pid := begin(t, r.cli, wire.ProcessStart, sh(`
		trap 'echo caught; exit 9' INT
		(trap 'exit 0' INT; echo ready; while :; do :; done)`)) // the shell acts on its trap only once its child has ended, too
	var ev wire.EventResponse
	if err := s.Receive(&ev); err != nil || string(ev.Event.Data.Stdout) != "ready\n" {
		t.Fatalf("got %+v, %v", ev, err)
	}
	sel := &wire.ProcessSelector{PID: pid}
	for _, bad := range []wire.Signal{0, 65, -1} {
		err := r.cli.Unary(t.Context(), wire.ProcessSendSignal, wire.SendSignalRequest{Process: sel, Signal: bad}, nil)
		if wire.CodeOf(err) != wire.InvalidArgument {
			t.Errorf("signal %d: %v", bad, err)
		}
	}
	if err := r.cli.Unary(t.Context(), wire.ProcessSendSignal, wire.SendSignalRequest{Process: sel, Signal: wire.SIGINT}, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := finish(s, pid); err != nil || got.stdout != "caught\n" || got.end.ExitCode != 9 {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := r.cli.Unary(t.Context(), wire.ProcessSendSignal, wire.SendSignalRequest{Process: sel, Signal: wire.SIGKILL}, nil); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("after the end: %v", err)
	}
}

func send(t *testing.T, r *rig, pid uint32, in wire.ProcessInput) error {
	t.Helper()
	return r.cli.Unary(t.Context(), wire.ProcessSendInput, wire.SendInputRequest{Process: &wire.ProcessSelector{PID: pid}, Input: &in}, nil)
}

func TestInputArrivesWholeAndInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	s, pid := begin(t, r.cli, wire.ProcessStart, sh("cat"))
	sender, err := r.cli.ClientStream(t.Context(), wire.ProcessStreamInput)
	if err != nil {
		t.Fatal(err)
	}
	var sent sync.WaitGroup
	sent.Go(func() {
		_ = sender.Send(wire.StreamInputRequest{Start: &wire.StreamInputStart{Process: &wire.ProcessSelector{PID: pid}}})
		for i := range 100 {
			data := wire.Bytes(strings.Repeat(string(rune('a'+i%26)), 50_000))
			_ = sender.Send(wire.StreamInputRequest{Data: &wire.StreamInputData{Input: &wire.ProcessInput{Stdin: &data}}})
			_ = sender.Send(wire.StreamInputRequest{Keepalive: &wire.Empty{}})
		}
		if err := sender.CloseAndReceive(nil); err != nil {
			t.Errorf("stream: %v", err)
		}
		sel := &wire.ProcessSelector{PID: pid}
		for range 2 { // closing twice is closing
			if err := r.cli.Unary(t.Context(), wire.ProcessCloseStdin, wire.CloseStdinRequest{Process: sel}, nil); err != nil && wire.CodeOf(err) != wire.NotFound {
				t.Errorf("close: %v", err)
			}
		}
	})
	got, err := finish(s, pid)
	sent.Wait()
	if err != nil || len(got.stdout) != 5_000_000 {
		t.Fatalf("%d bytes, %v", len(got.stdout), err)
	}
	for i := range 100 {
		if part := got.stdout[i*50_000 : (i+1)*50_000]; strings.Trim(part, string(rune('a'+i%26))) != "" {
			t.Fatalf("part %d is not what was sent", i)
		}
	}
}

func TestInputThatCannotBeTakenIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	data := wire.Bytes(strings.Repeat("x", 1<<20))
	no := false
	deaf := sh("sleep 1000")
	_, pid := begin(t, r.cli, wire.ProcessStart, deaf)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := r.cli.Unary(ctx, wire.ProcessSendInput, wire.SendInputRequest{Process: &wire.ProcessSelector{PID: pid}, Input: &wire.ProcessInput{Stdin: &data}}, nil)
	if wire.CodeOf(err) != wire.DeadlineExceeded {
		t.Errorf("to a process that does not read: %v", err)
	}
	closed := sh("exec <&-; echo closed; sleep 1000")
	s, pid2 := begin(t, r.cli, wire.ProcessStart, closed)
	if err := s.Receive(new(wire.EventResponse)); err != nil {
		t.Fatal(err)
	}
	if err := send(t, r, pid2, wire.ProcessInput{Stdin: &data}); wire.CodeOf(err) != wire.FailedPrecondition {
		t.Errorf("to a process that closed it: %v", err)
	}
	deaf.Stdin = &no
	_, pid3 := begin(t, r.cli, wire.ProcessStart, deaf)
	for _, c := range []struct {
		pid  uint32
		in   wire.ProcessInput
		code wire.Code
	}{
		{pid3, wire.ProcessInput{Stdin: &data}, wire.FailedPrecondition},
		{pid, wire.ProcessInput{PTY: &data}, wire.FailedPrecondition},
		{pid, wire.ProcessInput{}, wire.InvalidArgument},
		{1 << 30, wire.ProcessInput{Stdin: &data}, wire.NotFound},
		{0, wire.ProcessInput{Stdin: &data}, wire.InvalidArgument},
	} {
		if err := send(t, r, c.pid, c.in); wire.CodeOf(err) != c.code {
			t.Errorf("%+v: got %v", c.pid, err)
		}
	}
	size := wire.UpdateRequest{Process: &wire.ProcessSelector{PID: pid}, PTY: &wire.PTY{Size: &wire.Size{Cols: 1, Rows: 1}}}
	if err := r.cli.Unary(t.Context(), wire.ProcessUpdate, size, nil); wire.CodeOf(err) != wire.FailedPrecondition {
		t.Errorf("resize without pty: %v", err)
	}
}

func TestTerminalIsRealAndTheUsers(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	c := r.cli
	if os.Geteuid() == 0 {
		c = r.as("daemon")
	}
	req := sh(`stty -echo; stty size; test -O "$(tty)" && echo mine; test -t 0 && test -t 2 && echo tty $TERM; read x; stty size; echo got $x > /dev/tty; exit 4`)
	req.PTY = &wire.PTY{Size: &wire.Size{Cols: 91, Rows: 17}}
	s, pid := begin(t, c, wire.ProcessStart, req)
	var text string
	for !strings.Contains(text, "tty xterm") {
		var ev wire.EventResponse
		if err := s.Receive(&ev); err != nil {
			t.Fatalf("%v after %q", err, text)
		}
		text += string(ev.Event.Data.PTY)
	}
	sel := &wire.ProcessSelector{PID: pid}
	if err := c.Unary(t.Context(), wire.ProcessUpdate, wire.UpdateRequest{Process: sel, PTY: &wire.PTY{Size: &wire.Size{Cols: 120, Rows: 99999}}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Unary(t.Context(), wire.ProcessCloseStdin, wire.CloseStdinRequest{Process: sel}, nil); wire.CodeOf(err) != wire.FailedPrecondition {
		t.Errorf("close stdin of a terminal: %v", err)
	}
	line := wire.Bytes("hej\n")
	if err := send(t, r, pid, wire.ProcessInput{PTY: &line}); err != nil {
		t.Fatal(err)
	}
	got, err := finish(s, pid)
	text += got.pty
	for _, want := range []string{"17 91", "mine", "tty xterm", "65535 120", "got hej"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
	if err != nil || got.end.ExitCode != 4 {
		t.Errorf("got %+v, %v", got.end, err)
	}
}

func TestManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	var wg sync.WaitGroup
	for i := range 80 {
		wg.Go(func() {
			s, err := r.cli.ServerStream(t.Context(), wire.ProcessStart, sh(fmt.Sprintf("echo %d; exit %d", i, i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if got, err := finish(s, 0); err != nil || got.stdout != fmt.Sprintln(i) || int(got.end.ExitCode) != i {
				t.Errorf("%d: got %+v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if n := len(r.procs.list()); n != 0 {
		t.Errorf("%d processes are listed after their end", n)
	}
}

func TestEndsAreForgottenInTime(t *testing.T) {
	t.Parallel()
	var table processTable
	for i := range maxExited + 10 {
		p := &process{child: &Child{pid: i + 1}, endedAt: time.Now()}
		if i < 20 {
			p.endedAt = time.Now().Add(-2 * exitKept)
		}
		table.retire(p)
	}
	if len(table.exited) > maxExited {
		t.Errorf("%d are kept", len(table.exited))
	}
	if _, err := table.find(&wire.ProcessSelector{PID: 15}, true); wire.CodeOf(err) != wire.NotFound {
		t.Errorf("an old one: %v", err)
	}
	if _, err := table.find(&wire.ProcessSelector{PID: maxExited}, true); err != nil {
		t.Errorf("a young one: %v", err)
	}
	if _, err := table.find(&wire.ProcessSelector{PID: maxExited}, false); err == nil {
		t.Error("an ended process is found as a running one")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	a := New(Config{})
	dir := t.TempDir()
	var started []*process
	for _, script := range []string{
		"sleep 1000",
		"cat /dev/zero", // its listener does not read
		"trap '' TERM HUP INT; while :; do sleep 1000; done",
		"sleep 1000 & echo $! > " + dir + "/left; exit 0", // ended, with its output held open
	} {
		p, _ := startProcess(t, a, script)
		started = append(started, p)
	}
	<-started[3].child.Done()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range started {
		<-p.done
		if syscall.Kill(p.child.PID(), 0) == nil && !gone(fmt.Sprint(p.child.PID())) {
			t.Errorf("%d lives", p.child.PID())
		}
	}
	b, err := os.ReadFile(dir + "/left")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of what was left behind", func() bool { return gone(strings.TrimSpace(string(b))) })
	user, _ := a.account("")
	l, err := a.plan(user, sh("true"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.start(l, sh("true"), -1); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("start after Close: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// BenchmarkFirstOutput is a whole command: request, fork, first byte, end.
func BenchmarkFirstOutput(b *testing.B) {
	r := newRig(b, Config{})
	req := &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: "/bin/echo", Args: []string{"x"}}}
	for b.Loop() {
		run(b, r.cli, req)
	}
}

// BenchmarkBareExec is the same without the agent, to compare.
func BenchmarkBareExec(b *testing.B) {
	for b.Loop() {
		if _, err := exec.Command("/bin/echo", "x").Output(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlood is a process that writes as fast as its client reads.
func BenchmarkFlood(b *testing.B) {
	r := newRig(b, Config{})
	const size = 256 << 20
	b.SetBytes(size)
	for b.Loop() {
		s, _ := begin(b, r.cli, wire.ProcessStart, sh(fmt.Sprintf("head -c %d /dev/zero", size)))
		for {
			var ev wire.EventResponse
			if err := s.Receive(&ev); err != nil {
				break
			}
		}
	}
}
