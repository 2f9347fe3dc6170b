package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

// typist is the program on a terminal, and who types at it.
type typist struct {
	*exec.Cmd
	keys, screen *os.File    // the terminal's two ends
	shown        chan []byte // what comes on the screen, read until the terminal is closed
	ended        chan struct{}
	seen         bytes.Buffer
	before       unix.Termios
}

func onTerminal(t *testing.T, args ...string) *typist {
	t.Helper()
	return onTerminalWith(t, nil, args...)
}

// onTerminalWith is onTerminal with more in the environment.
func onTerminalWith(t *testing.T, env []string, args ...string) *typist {
	t.Helper()
	needs.Root(t)
	keys, screen, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = screen.Close()
		_ = keys.Close()
	})
	p := &typist{
		Cmd: exec.CommandContext(t.Context(), "dayfly", args...), keys: keys, screen: screen,
		shown: make(chan []byte, 1024), ended: make(chan struct{}),
	}
	p.before = p.termios(t)
	if err := pty.Setsize(keys, &pty.Winsize{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	p.Env = append(p.Environ(), "DAYFLY_STATE="+t.TempDir(), "DAYFLY_HOST=none", "TERM=dumb")
	p.Env = append(p.Env, env...)
	p.Stdin, p.Stdout, p.Stderr = screen, screen, screen
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.Wait()
	}()
	go p.watch(t.Context())
	return p
}

// watch reads the screen, as a terminal does whoever looks at it: a program
// whose output nobody takes would wait for ever.
func (p *typist) watch(ctx context.Context) {
	for {
		buf := make([]byte, 4096)
		n, err := p.keys.Read(buf)
		if n > 0 {
			select {
			case p.shown <- buf[:n]:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *typist) termios(t *testing.T) unix.Termios {
	t.Helper()
	tio, err := unix.IoctlGetTermios(int(p.screen.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *tio
}

// hidden waits until what is typed is not shown.
func (p *typist) hidden(t *testing.T) {
	t.Helper()
	for p.termios(t).Lflag&unix.ECHO != 0 {
		runtime.Gosched()
	}
}

func (p *typist) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(p.keys, keys); err != nil {
		t.Fatal(err)
	}
}

// sees reads until text was on the screen since the last call. A program that
// ends without having shown it is a failure.
func (p *typist) sees(t *testing.T, text string) {
	t.Helper()
	p.seen.Reset()
	for !strings.Contains(p.seen.String(), text) {
		select {
		case part := <-p.shown:
			p.seen.Write(part)
			continue
		case <-p.ended:
		}
		if !p.sayLast(text) {
			t.Fatalf("it ended with %v before it showed %q; on the screen: %q", p.ProcessState, text, &p.seen)
		}
	}
}

// sayLast has an ended program's last words in seen: it makes the terminal say
// a line of its own, which comes after them.
func (p *typist) sayLast(text string) bool {
	const last = "<the last line>"
	if _, err := p.screen.WriteString(last); err != nil {
		return false
	}
	for !strings.Contains(p.seen.String(), last) {
		p.seen.Write(<-p.shown)
	}
	return strings.Contains(p.seen.String(), text)
}

// ends waits for the program and sees to it that the terminal is as before.
func (p *typist) ends(t *testing.T, code int) {
	t.Helper()
	<-p.ended
	if got := p.ProcessState.ExitCode(); got != code {
		t.Errorf("exit code %d, want %d; on the screen: %q", got, code, &p.seen)
	}
	if after := p.termios(t); after != p.before {
		t.Errorf("the terminal was left as %+v, it was %+v", after, p.before)
	}
}

func TestTerminalIsTheCommandsWhileItRuns(t *testing.T) {
	t.Parallel()
	p := onTerminal(t, "run", "-it", "-u", "root", fakehost.Base, "bash", "--norc")
	p.types(t, "stty size; echo term-$TERM-$((40+2))\n")
	p.sees(t, "term-dumb-42")
	if !strings.Contains(p.seen.String(), "33 99") {
		t.Errorf("on the screen: %q", &p.seen)
	}
	if during := p.termios(t); during.Lflag&unix.ICANON != 0 || during.Lflag&unix.ECHO != 0 || during.Lflag&unix.ISIG != 0 {
		t.Errorf("the terminal is not raw: %+v", during)
	}
	if err := pty.Setsize(p.keys, &pty.Winsize{Rows: 20, Cols: 70}); err != nil {
		t.Fatal(err)
	}
	p.types(t, `until [ "$(stty size)" = "20 70" ]; do sleep 0.01; done; echo resized-$((1+1))`+"\n")
	p.sees(t, "resized-2")
	// Ctrl-C is a key for the command's terminal, not a signal for us.
	p.types(t, "sh -c 'trap \"echo caught-\\$((6*7)); exit\" INT; echo trap-$((2+2)); while :; do sleep 0.01; done'\n")
	p.sees(t, "trap-4")
	p.types(t, "\x03")
	p.sees(t, "caught-42")
	p.types(t, "exit 7\n")
	p.ends(t, 7)
}

func TestTerminalIsGivenBackHoweverItEnds(t *testing.T) {
	t.Parallel()
	t.Run("workspace dies", func(t *testing.T) {
		t.Parallel()
		p := onTerminal(t, "run", "-it", "-u", "root", fakehost.Doomed, "sh", "-c", "echo hello; sleep 1000")
		p.sees(t, "panicked")
		p.ends(t, exitOwn)
	})
	t.Run("time is up", func(t *testing.T) {
		t.Parallel()
		p := onTerminal(t, "run", "-it", "-u", "root", "--timeout", "300ms", fakehost.Base, "sleep", "1000")
		p.sees(t, "time is up")
		p.ends(t, exitTimeout)
	})
	t.Run("command is not there", func(t *testing.T) {
		t.Parallel()
		p := onTerminal(t, "run", "-it", "-u", "root", fakehost.Base, "no-such-command")
		p.sees(t, "not found")
		p.ends(t, 127)
	})
	t.Run("killed twice", func(t *testing.T) {
		t.Parallel()
		p := onTerminal(t, "run", "-it", "-u", "root", fakehost.Base, "sh", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 0.01; done")
		p.sees(t, "ready")
		for _, heard := range []string{"caught", "interrupted by SIGINT"} {
			if err := p.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			p.sees(t, heard)
		}
		p.ends(t, 130)
	})
}

func TestTerminalWithoutInputStaysTheUsers(t *testing.T) {
	t.Parallel()
	p := onTerminal(t, "run", "-t", "-u", "root", fakehost.Base, "sh", "-c", "tty; stty size; echo done")
	p.sees(t, "done")
	if !strings.Contains(p.seen.String(), "/dev/pts/") || !strings.Contains(p.seen.String(), "33 99") {
		t.Errorf("on the screen: %q", &p.seen)
	}
	p.ends(t, 0)
}

func TestProgressIsDrawnOnATerminal(t *testing.T) {
	t.Parallel()
	p := onTerminal(t, "image", "pull", "alpine:3.22")
	p.sees(t, "sha256:feed")
	if !strings.Contains(p.seen.String(), "1.0 MiB / 1.0 MiB") || !strings.Contains(p.seen.String(), "━") {
		t.Errorf("on the screen: %q", &p.seen)
	}
	p.ends(t, 0)
}
