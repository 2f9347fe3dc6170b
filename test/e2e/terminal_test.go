package e2e

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/creack/pty"
)

func TestTerminalIsReal(t *testing.T) {
	t.Parallel()
	state := newState(t)
	c := command(t, t.Context(), state, "run", "-it", "base", "--", "bash", "--norc")
	tty, err := pty.StartWithSize(c, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	seen := &strings.Builder{}
	say := func(line, until string) {
		t.Helper()
		if _, err := io.WriteString(tty, line+"\n"); err != nil {
			t.Fatal(err)
		}
		waitFor(t, tty, seen, until)
	}
	say("stty size; tty; echo shell-$((40+2))", "shell-42")
	if !strings.Contains(seen.String(), "33 99") || !strings.Contains(seen.String(), "/dev/pts/") {
		t.Errorf("it printed %q", seen)
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 20, Cols: 70}); err != nil {
		t.Fatal(err)
	}
	say(`until [ "$(stty size)" = "20 70" ]; do :; done; echo resized-$((1+1))`, "resized-2")
	say("sh -c 'trap \"echo caught-\\$((6*7)); exit\" INT; echo trap-$((2+2)); while :; do sleep 0.01; done'", "trap-4")
	if _, err := tty.Write([]byte{3}); err != nil { // ctrl-C is a byte for the guest's terminal
		t.Fatal(err)
	}
	waitFor(t, tty, seen, "caught-42")
	if _, err := io.WriteString(tty, "exit 7\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(seen, tty)
	_ = c.Wait()
	if code := c.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit %d; it printed %q", code, seen)
	}
}

// waitFor reads until text has been seen.
func waitFor(t *testing.T, r io.Reader, seen *strings.Builder, text string) {
	t.Helper()
	buf := make([]byte, 4096)
	for from := seen.Len(); !strings.Contains(seen.String()[max(0, from-len(text)):], text); {
		n, err := r.Read(buf)
		seen.Write(bytes.ToValidUTF8(buf[:n], []byte("?")))
		if err != nil {
			t.Fatalf("waiting for %q: %v; it printed %q", text, err, seen)
		}
	}
}
