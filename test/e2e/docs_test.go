package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly/test/needs"
)

// block is an example of a page: a fence marked as sh.
type block struct {
	line int // of its first line, from 1
	text string
}

// blocks reads the examples of a page in their order.
func blocks(page string) []block {
	var list []block
	var in *block
	n := 0
	for line := range strings.Lines(page) {
		n++
		switch fence := strings.TrimRight(line, "\n"); {
		case in == nil && fence == "```sh":
			in = &block{line: n + 1}
		case in != nil && fence == "```":
			list = append(list, *in)
			in = nil
		case in != nil:
			in.text += line
		}
	}
	return list
}

func TestBlocksOfAPageAreThoseMarkedAsShell(t *testing.T) {
	t.Parallel()
	page := "a\n```\nno\n```\n```sh\none\ntwo\n```\n```json\nno\n```\n```sh\nthree\n```\n```sh\nnever closed\n"
	if got, want := fmt.Sprint(blocks(page)), fmt.Sprint([]block{{6, "one\ntwo\n"}, {13, "three\n"}}); got != want {
		t.Errorf("blocks = %s, want %s", got, want)
	}
}

// TestExamplesOfTheAPIRun runs what docs/api.md shows, each example by itself
// with the two variables that the page asks for, against a server that was just
// started. Each must succeed and, as the page says, clean up after itself.
func TestExamplesOfTheAPIRun(t *testing.T) {
	t.Parallel()
	needs.Curl(t)
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := blocks(string(page))
	if len(examples) == 0 {
		t.Fatal("docs/api.md has no examples")
	}
	s := serve(t, newState(t), "--listen", "127.0.0.1:0")
	address := s.tcp(t)
	key, err := os.ReadFile(filepath.Join(s.state, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C",
		"DAYFLY_SERVER=" + address, "DAYFLY_API_KEY=" + strings.TrimSpace(string(key)),
	}
	for _, b := range examples {
		t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
			s.example(t, b, env)
		})
	}
}

// example runs one block, and looks for what it has left.
func (s *server) example(t *testing.T, b block, env []string) {
	t.Helper()
	bash := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", b.text)
	bash.Env, bash.Dir = env, t.TempDir()
	bash.WaitDelay = patience
	if out, err := bash.CombinedOutput(); err != nil {
		t.Errorf("docs/api.md:%d: %v:\n%s\n--- it said:\n%s\n--- the server said:\n%s", b.line, err, b.text, out, s.log())
	}
	list, err := s.Workspaces.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ws := range list {
		t.Errorf("docs/api.md:%d: it leaves the workspace %s, which is %s", b.line, ws.Name, ws.State)
	}
	s.clearWorkspaces(t) // the next one is not to fail because of this one
}
