// Package e2b holds the agent to what the E2B Python SDK, unmodified, relies
// on. promises.py has the promises; this runs them against dayfly-guest as a
// plain process, in the SDK's debug mode, which knows one address only: port
// 49983 of this machine. So runs wait for each other.
package e2b

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
)

const agentAddress = "127.0.0.1:49983"

// runLimit ends a run that hangs.
const runLimit = 4 * time.Minute

func TestPythonSDKKeepsItsPromises(t *testing.T) {
	python := sdk(t)
	dir := scratch(t)
	startAgent(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "promises.py")
	cmd.Env = append(os.Environ(), "E2B_DEBUG=true", "E2B_API_KEY=e2b_"+strings.Repeat("0", 40),
		"PROMISES_DIR="+dir, "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var promise struct {
			Promise string
			Error   *string
		}
		if err := json.Unmarshal(lines.Bytes(), &promise); err != nil {
			t.Errorf("unexpected output: %s", lines.Text())
			continue
		}
		kept++
		t.Run(promise.Promise, func(t *testing.T) {
			if promise.Error != nil {
				t.Error(*promise.Error)
			}
		})
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("promises.py: %v\n%s", err, stderr.String())
	}
	if kept == 0 {
		t.Error("no promise was tried")
	}
}

// scratch returns a directory that other users may enter, unlike t.TempDir.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dayfly-e2b-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sdk returns a Python with the SDK, in a virtual environment of the pinned
// packages that later runs share. It holds the lock of the run.
func sdk(t *testing.T) string {
	t.Helper()
	system := needs.Python(t)
	requirements, err := os.ReadFile("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(requirements)
	venv := filepath.Join(cache, "dayfly", "e2b-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(venv, 0o755); err != nil {
		t.Fatal(err)
	}
	lock(t, filepath.Join(cache, "dayfly", "e2b.lock"))
	python := filepath.Join(venv, "bin", "python3")
	ready := filepath.Join(venv, "ready")
	if _, err := os.Stat(ready); err == nil {
		return python
	}
	for _, args := range [][]string{
		{system, "-m", "venv", "--clear", venv},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%se2b python package: %v: %s: install python3-venv, and let pip reach a package index",
				needs.Prefix, err, bytes.TrimSpace(out))
		}
	}
	if err := os.WriteFile(ready, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return python
}

// lock waits for other runs on this machine.
func lock(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// startAgent builds and runs dayfly-guest until the test ends.
func startAgent(t *testing.T, dir string) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "dayfly-guest")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/dayfly-guest").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var log bytes.Buffer
	cmd := exec.Command(bin, "--listen", agentAddress)
	cmd.Dir, cmd.Stderr = dir, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("agent: %v\n%s", err, log.String())
		}
	})
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("agent ended: %v (is another process on %s?)\n%s", err, agentAddress, log.String())
		default:
		}
		if resp, err := http.Get("http://" + agentAddress + "/health"); err == nil {
			resp.Body.Close()
			return
		}
	}
}
