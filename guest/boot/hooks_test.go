package boot

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fork starts processes that this test's own process waits for.
func fork(do func() (int, error)) (func() syscall.WaitStatus, error) {
	pid, err := do()
	return func() (ws syscall.WaitStatus) {
		_, _ = syscall.Wait4(pid, &ws, 0, nil)
		return ws
	}, err
}

func newHook(t *testing.T, script string) *hook {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return &hook{path: path, env: []string{"PATH=" + hookPath, "DAYFLY_RENEW=fork"}, group: -1, fork: fork}
}

func TestHookThatFailsIsNamedWithItsLastWords(t *testing.T) {
	for script, want := range map[string]string{
		"yes $DAYFLY_RENEW | head -c 100000; echo last words; exit 3": "last words\\n",
		"exit 3":     "exit status 3",
		"kill -9 $$": "signal: killed",
	} {
		h := newHook(t, script)
		err := h.run(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), h.path) || len(err.Error()) > 4*hookOutput {
			t.Errorf("%s: %v", script, err)
		}
	}
	h := newHook(t, "")
	if err := os.WriteFile(h.path, []byte("#!/no/such/shell\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.run(t.Context()); err == nil || !strings.Contains(err.Error(), h.path) {
		t.Errorf("a hook that cannot start: %v", err)
	}
}

func TestHookMayLeaveAServiceBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	h := newHook(t, "sleep 1000 & echo $! > "+file)
	if err := h.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", "kill $(cat "+file+")").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestHookThatTakesTooLongIsKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := newHook(t, "sleep 1000").run(ctx); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("run = %v", err)
	}
}

func TestHooksAreExecutablesInLexicalOrder(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"20-b": 0o755, "10-a": 0o700, "README": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "15-dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	paths, err := hooksIn(dir)
	if got := strings.Join(paths, " "); err != nil || got != dir+"/10-a "+dir+"/20-b" {
		t.Errorf("hooksIn = %q, %v", got, err)
	}
	if paths, err := hooksIn(filepath.Join(dir, "none")); err != nil || paths != nil {
		t.Errorf("of no directory: %q, %v", paths, err)
	}
}
