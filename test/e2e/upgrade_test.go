package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
)

const earlier = "0.0.1-earlier"

// earlierBuild builds this program as another version, with an agent of that
// version inside, and returns its path.
func earlierBuild(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	agent, program := filepath.Join(dir, "dayfly-guest"), filepath.Join(dir, "dayfly")
	instead, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, "cmd/dayfly/guestbin/dayfly-guest"): agent}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, instead, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-o", agent, "./cmd/dayfly-guest"}, {"-overlay", overlay, "-o", program, "./cmd/dayfly"}} {
		flags := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X github.com/dayfly/dayfly.Version=" + earlier}
		c := exec.CommandContext(t.Context(), "go", append(flags, args...)...)
		c.Dir = root
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	return program
}

// version is what a server says that it is.
func (c *caller) version(t *testing.T) string {
	t.Helper()
	var v struct{ Version string }
	c.must(t, http.StatusOK, "GET", "/v1/version", nil, &v)
	return v.Version
}

// agent is the version of the agent in a workspace.
func (c *caller) agent(t *testing.T, id words.ID) string {
	t.Helper()
	return c.must(t, http.StatusNoContent, "GET", "/v1/workspaces/"+string(id)+"/guest/health", nil, nil).header.Get("X-Agent-Version")
}

// TestUpgradeLetsWorkspacesGoOn: another program takes over the state directory
// of one that was killed. What runs goes on, with the agent that it began with,
// also over a pause and as the parent of forks; what was paused is resumed; what
// starts anew has the new agent.
func TestUpgradeLetsWorkspacesGoOn(t *testing.T) {
	t.Parallel()
	state := newState(t)
	old := serveBy(t, earlierBuild(t), state)
	if got := old.raw().version(t); got != earlier {
		t.Fatalf("the earlier program is %s", got)
	}
	runs, waits := old.create(t), old.create(t)
	running, paused := old.count(t, runs), old.count(t, waits)
	old.must(t, "pause", string(waits))
	old.kill(t)

	s := serveOn(t, state)
	c := s.raw()
	if got := c.version(t); got == earlier {
		t.Fatal("it is the same program")
	}
	running = s.goesOn(t, runs, running)
	s.must(t, "resume", string(waits))
	s.goesOn(t, waits, paused)
	s.must(t, "pause", string(runs))
	s.must(t, "resume", string(runs))
	running = s.goesOn(t, runs, running)
	copies, err := s.Workspaces.Fork(t.Context(), runs, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.goesOn(t, copies[0].ID, running)
	for id, want := range map[words.ID]string{runs: earlier, waits: earlier, copies[0].ID: earlier} {
		if got := c.agent(t, id); got != want {
			t.Errorf("the agent of %s is %s", id, got)
		}
	}
	if got := c.agent(t, s.create(t)); got == earlier || got == "" {
		t.Errorf("the agent of a new workspace is %q", got)
	}
}
