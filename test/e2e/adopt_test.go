package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/node"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// An owner is a process with a node whose machines outlive it: this test, or a
// child that is there to be killed.
const (
	ownerState = "DAYFLY_E2E_OWNER"       // the state directory; set, this process is such a child
	ownerAgent = "DAYFLY_E2E_OWNER_AGENT" // the file of the guest's agent
	ownerWork  = "DAYFLY_E2E_OWNER_WORK"  // what it is to do: a word of works
)

// ready begins the line in which an owner says that it has the workspace.
const ready = "owner-ready "

// works are what an owner does, over and over, until it is killed.
var works = map[string]func(context.Context, *node.Node, words.ID) error{
	"wait": func(ctx context.Context, _ *node.Node, _ words.ID) error {
		<-ctx.Done()
		return ctx.Err()
	},
	"snapshot": func(ctx context.Context, n *node.Node, id words.ID) error {
		s, err := n.Snapshot(ctx, id, "")
		return errors.Join(err, n.DeleteSnapshot(ctx, string(s.ID)))
	},
	"pause": func(ctx context.Context, n *node.Node, id words.ID) error {
		_, err := n.Pause(ctx, id)
		if err == nil {
			_, err = n.Resume(ctx, id)
		}
		return err
	},
	"fork": func(ctx context.Context, n *node.Node, id words.ID) error {
		copies, err := n.Fork(ctx, id, 1)
		if err == nil {
			err = n.Delete(ctx, copies[0].ID)
		}
		return err
	},
}

// openOwner opens the node of an owner.
func openOwner(ctx context.Context, state, agent string, log io.Writer) (*node.Node, error) {
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	images, err := image.Open(filepath.Join(state, "images"), image.Options{Log: logger})
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(agent)
	if err != nil {
		return nil, err
	}
	kernels, err := kernel.Open(filepath.Join(state, "kernels"), program)
	if err != nil {
		return nil, err
	}
	keys, err := keyring.Open(state)
	if err != nil {
		return nil, err
	}
	return node.Open(ctx, node.Config{
		Dir: state, Images: images, Kernels: kernels, Keys: keys, Log: logger,
		Driver: qemu.New(qemu.Options{Log: logger}), KillOrphans: qemu.KillOrphans, Orphans: qemu.Orphans, Outlive: true,
		Jail: &jail.Options{Log: logger},
	})
}

// TestOwnerThatIsKilled is no test but such a child.
func TestOwnerThatIsKilled(t *testing.T) {
	t.Parallel()
	state := os.Getenv(ownerState)
	if state == "" {
		return
	}
	n, err := openOwner(t.Context(), state, os.Getenv(ownerAgent), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	id, err := theWorkspace(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "%s%s\n", ready, id)
	for {
		if err := works[os.Getenv(ownerWork)](t.Context(), n, id); err != nil {
			fmt.Fprintln(os.Stderr, err) // where it is looked for
			t.Fatal(err)
		}
	}
}

// theWorkspace is the one there is, running. The first owner makes it and starts
// the counter. Copies that were finished, but not deleted again, go.
func theWorkspace(ctx context.Context, n *node.Node) (words.ID, error) {
	all, err := n.List(ctx)
	if err != nil {
		return "", err
	}
	var list []words.Workspace
	for _, ws := range all {
		if ws.Parent == "" {
			list = append(list, ws)
		} else if err := n.Delete(ctx, ws.ID); err != nil {
			return "", err
		}
	}
	if len(list) == 0 {
		ws, err := n.Create(ctx, words.Spec{Image: "base"})
		if err != nil {
			return "", err
		}
		_, err = shell(ctx, n, ws.ID, `python3 -c "$1" </dev/null >/dev/null 2>&1 &`, counter)
		return ws.ID, err
	}
	if len(list) > 1 {
		return "", fmt.Errorf("there are %d workspaces: what was being made should be gone", len(list))
	}
	if ws := list[0]; ws.State == words.Paused {
		_, err = n.Resume(ctx, ws.ID)
	} else if ws.State != words.Running {
		err = fmt.Errorf("the workspace is %s: %s", ws.State, ws.Reason)
	}
	return list[0].ID, err
}

// shell runs a script in a workspace and returns what it printed.
func shell(ctx context.Context, n *node.Node, id words.ID, script string, args ...string) (string, error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return n.Dial(ctx, id, wire.AgentPort) }}
	defer tr.CloseIdleConnections()
	c := &wire.Client{HTTP: &http.Client{Transport: tr}, Base: "http://guest"}
	stream, err := c.ServerStream(ctx, wire.ProcessStart, &wire.StartRequest{Process: &wire.ProcessConfig{
		Cmd: "sh", Args: append([]string{"-c", script, "sh"}, args...),
	}})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var out strings.Builder
	for {
		var ev wire.EventResponse
		if err := stream.Receive(&ev); err != nil {
			return out.String(), err
		}
		switch e := ev.Event; {
		case e.Data != nil:
			out.Write(e.Data.Stdout)
			out.Write(e.Data.Stderr)
		case e.End != nil && e.End.ExitCode != 0:
			return out.String(), fmt.Errorf("it ended with %s: %s", e.End.Status, out.String())
		case e.End != nil:
			return out.String(), nil
		}
	}
}

// buildAgent builds the guest's agent of this work tree.
func buildAgent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/dayfly/dayfly/cmd/dayfly-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	return path
}

// owners are processes that have a state directory one after the other.
type owners struct{ state, agent string }

// kill starts an owner that works, kills it when it has said so many lines about
// the workspace, and returns the last of them.
func (o owners) kill(t *testing.T, work string, lines int) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOwnerThatIsKilled$")
	cmd.Env = append(os.Environ(), ownerState+"="+o.state, ownerAgent+"="+o.agent, ownerWork+"="+work)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	last, isReady := "", false
	for in := bufio.NewScanner(log); in.Scan(); {
		said.WriteString(in.Text() + "\n")
		isReady = isReady || strings.HasPrefix(in.Text(), ready)
		if step := stepOf(in.Text()); isReady && step != "" {
			last = step
			lines--
		}
		if isReady && lines <= 0 {
			break
		}
	}
	_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
	_, _ = io.Copy(io.Discard, log)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the owner ended before it was killed: %v\n%s", err, said.String())
	}
	return last
}

// goesOn checks that the counter has gone on from where it was: the same process,
// without gap or repetition, on a disk that tells the same. The owner is this
// process, and lets go again.
func (o owners) goesOn(t *testing.T, from tally) (c tally) {
	t.Helper()
	var log strings.Builder
	n, err := openOwner(t.Context(), o.state, o.agent, &log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	id, err := theWorkspace(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell(t.Context(), n, id, `until [ $(wc -l < /home/user/count) -gt $1 ]; do sleep 0.1; done 2>/dev/null
sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null; cat /home/user/count`, fmt.Sprint(from.n))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		last := c
		if _, err := fmt.Sscan(line, &c.n, &c.pid); err != nil || c.n != last.n+1 || last.n > 0 && c.pid != last.pid {
			t.Fatalf("after %d of process %d comes %q", last.n, last.pid, line)
		}
	}
	if from.pid != 0 && c.pid != from.pid {
		t.Fatalf("process %d is %d by now", from.pid, c.pid)
	}
	return c
}

// end deletes the workspace.
func (o owners) end(t *testing.T) {
	t.Helper()
	n, err := openOwner(context.WithoutCancel(t.Context()), o.state, o.agent, io.Discard)
	if err != nil {
		t.Error(err)
		return
	}
	ctx := context.WithoutCancel(t.Context())
	list, err := n.List(ctx)
	for _, ws := range list {
		err = errors.Join(err, n.Delete(ctx, ws.ID))
	}
	snaps, listErr := n.Snapshots(ctx)
	for _, s := range snaps {
		err = errors.Join(err, n.DeleteSnapshot(ctx, string(s.ID)))
	}
	if err := errors.Join(err, listErr, n.Close()); err != nil {
		t.Error(err)
	}
}

// TestCounterCountsOnWhateverItsOwnersDieOf: a process in a workspace, its memory
// and its disk, outlive owners that are killed while they do nothing, and at
// every step of what they do with the workspace.
func TestCounterCountsOnWhateverItsOwnersDieOf(t *testing.T) {
	t.Parallel()
	o := owners{newState(t), buildAgent(t)}
	t.Cleanup(func() { o.end(t) })
	for work, stride := range map[string]int{"snapshot": 1, "pause": 1, "fork": 4} {
		// Another workspace for each work: each time it is done is a layer more on the
		// disk, of which there may be so many.
		o.kill(t, "wait", 0)
		c := o.goesOn(t, tally{})
		seen := map[string]bool{}
		for lines := 1; ; lines += stride {
			step := o.kill(t, work, lines)
			c = o.goesOn(t, c)
			if seen[step] && lines > len(seen)+1 {
				break // it has begun again
			}
			seen[step] = true
		}
		t.Logf("%s: killed at %d steps; the counter is at %d", work, len(seen), c.n)
		o.end(t)
	}
}

// TestDiskOfAStoppedWorkspaceGrows: the file, and at the next start the file
// system in it, with what is on it.
func TestDiskOfAStoppedWorkspaceGrows(t *testing.T) {
	t.Parallel()
	o := owners{newState(t), buildAgent(t)}
	t.Cleanup(func() { o.end(t) })
	n, err := openOwner(t.Context(), o.state, o.agent, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ws, err := n.Create(t.Context(), words.Spec{Image: "base", DiskMiB: 128})
	if err != nil {
		t.Fatal(err)
	}
	size := func() (mib int) {
		t.Helper()
		out, err := shell(t.Context(), n, ws.ID, `df -m --output=size / | tail -1; cat /home/user/word 2>/dev/null; true`)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(out, &mib); err != nil {
			t.Fatal(err)
		}
		if mib > 128 && !strings.Contains(out, "kept") {
			t.Errorf("the disk has lost what it held: %q", out)
		}
		return mib
	}
	before := size()
	if _, err := shell(t.Context(), n, ws.ID, `echo kept > /home/user/word`); err != nil {
		t.Fatal(err)
	}
	for _, mib := range []int{512, 1024} {
		if _, err := n.Stop(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		if ws, err = n.Update(t.Context(), ws.ID, words.Spec{Keep: true, DiskMiB: mib}); err != nil {
			t.Fatal(err)
		}
		if ws, err = n.Start(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		if got := size(); got < mib*3/4 || got <= before {
			t.Errorf("the guest's disk has %d MiB, and had %d: it should have nearly %d", got, before, mib)
		}
		if _, err := shell(t.Context(), n, ws.ID, `dd if=/dev/zero of=/home/user/fill bs=1M count=$1 status=none && sync && rm /home/user/fill`, fmt.Sprint(mib/2)); err != nil {
			t.Errorf("half of %d MiB cannot be filled: %v", mib, err)
		}
	}
}
