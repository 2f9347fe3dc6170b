package main

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

// lasting is a host that outlives the command that uses it.
type lasting struct{ fakeBackend }

func (lasting) Close() error { return nil }

func TestExecLeavesAWorkspaceAsItFoundIt(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	h := fakehost.New()
	defer h.Close()
	ws, err := h.Create(t.Context(), dayfly.Spec{Image: fakehost.Base, User: "root"}, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		state dayfly.State
		enter func() error
	}{
		{dayfly.Paused, func() error { _, err := h.Pause(t.Context(), ws.ID); return err }},
		{dayfly.Stopped, func() error {
			if _, err := h.Resume(t.Context(), ws.ID); err != nil {
				return err
			}
			_, err := h.Stop(t.Context(), ws.ID)
			return err
		}},
	} {
		if err := tc.enter(); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		a := &app{
			stdin: strings.NewReader(""), stdout: &out, stderr: io.Discard,
			lookupEnv:  func(string) (string, bool) { return "", false },
			newBackend: func(string, *slog.Logger) (backend, error) { return lasting{fakeBackend{h}}, nil },
		}
		if code := a.run([]string{"exec", "--state", t.TempDir(), string(ws.ID), "echo", "hello"}); code != 0 || out.String() != "hello\n" {
			t.Errorf("exec in a %s workspace: code %d, %q", tc.state, code, &out)
		}
		if got, err := h.Get(t.Context(), ws.ID); err != nil || got.State != tc.state {
			t.Errorf("exec left a %s workspace %s, %v", tc.state, got.State, err)
		}
	}
}

func TestHeadingSaysWhyAStartWasNotFaster(t *testing.T) {
	t.Parallel()
	ws := dayfly.Workspace{ID: "wabcdefghijklmnopqrst", StartKind: dayfly.Cold, Accel: dayfly.TCG}
	if got := heading(ws); got != "cold start of wabcdefghijklmnopqrst (tcg)" {
		t.Error(got)
	}
	ws.StartNote = "no template yet\x1b[2J"
	if got := heading(ws); got != "cold start of wabcdefghijklmnopqrst (tcg): no template yet?[2J" {
		t.Error(got)
	}
}

// TestCommandsShowAnExample: those that came with pausing and copying, and
// whatever is added below them.
func TestCommandsShowAnExample(t *testing.T) {
	t.Parallel()
	root := newApp().root()
	for _, name := range []string{"pause", "resume", "start", "fork", "rollback", "run", "exec"} {
		if c, _, err := root.Find([]string{name}); err != nil || c.Example == "" {
			t.Errorf("%s: no example, %v", name, err)
		}
	}
	for _, group := range []string{"snapshot", "system"} {
		c, _, err := root.Find([]string{group})
		if err != nil || len(c.Commands()) == 0 {
			t.Fatalf("%s: %v", group, err)
		}
		for _, sub := range c.Commands() {
			if sub.Example == "" {
				t.Errorf("%s: no example", sub.CommandPath())
			}
		}
	}
}
