package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	words "github.com/dayfly/dayfly"
)

// operation is one that a kill may cut short.
type operation struct {
	name   string
	args   func(id words.ID) []string
	paused bool     // the workspace is paused before it, rather than running
	back   []string // what lets the workspace go on, after the command's id
	copies bool     // the VMMs to kill are those of the copies it makes
}

// operations are those that save or restore. Of each, its steps are learnt from
// the log of a whole run, so that a new one is tested the day it is added.
var operations = []operation{
	{"pause", func(id words.ID) []string { return []string{"pause", string(id)} }, false, nil, false},
	{"resume", func(id words.ID) []string { return []string{"resume", string(id)} }, true, nil, false},
	{"snapshot", func(id words.ID) []string { return []string{"snapshot", "create", string(id)} }, false, nil, false},
	{"fork", func(id words.ID) []string { return []string{"fork", "-n", "2", string(id)} }, false, nil, false},
	{"fork, its copies", func(id words.ID) []string { return []string{"fork", "-n", "2", string(id)} }, false, nil, true},
	{"rollback", func(id words.ID) []string { return []string{"rollback", string(id), "start"} }, false, []string{"start"}, false},
	{"delete", func(id words.ID) []string { return []string{"rm", string(id)} }, false, nil, false},
	{"delete of a paused one", func(id words.ID) []string { return []string{"rm", string(id)} }, true, nil, false},
}

// A step, as the log names it.
var (
	stepFields = regexp.MustCompile(`(msg|of|stage|state)=("[^"]*"|\S+)`)
	ofSubject  = regexp.MustCompile(` (workspace|snapshot)=w`)
)

// stepOf returns "" for what no operation on a workspace says, such as the making
// of a template behind it.
func stepOf(line string) string {
	if !ofSubject.MatchString(line) {
		return ""
	}
	return strings.Join(stepFields.FindAllString(line, -1), " ")
}

// crashing is a state directory with a workspace in which a counter runs, and of
// which there is a snapshot named start.
type crashing struct {
	*server
	op    operation
	id    words.ID
	c     tally
	round int
}

func (k *crashing) home() string { return filepath.Join(k.state, "workspaces", string(k.id)) }

func (k *crashing) deletes() bool { return k.op.args(k.id)[0] == "rm" }

func newCrashing(t *testing.T, op operation) *crashing {
	t.Helper()
	k := &crashing{server: serve(t, newState(t)), op: op}
	k.fresh(t)
	return k
}

func (k *crashing) fresh(t *testing.T) {
	t.Helper()
	k.id = k.create(t)
	k.c = k.count(t, k.id)
	k.inscribe(t, 0)
	if k.op.back != nil {
		k.must(t, "snapshot", "create", string(k.id), "--name", "start")
	}
}

// inscribe writes a number into the workspace's memory and onto its disk.
func (k *crashing) inscribe(t *testing.T, n int) {
	t.Helper()
	k.sh(t, k.id, `echo $1 > /dev/shm/round; echo $1 > /home/user/round; sync`, fmt.Sprint(n))
	k.round = n
}

// acknowledged brings the workspace to where the operation begins, with a pause
// that its caller was told of on the way.
func (k *crashing) acknowledged(t *testing.T) {
	t.Helper()
	k.inscribe(t, k.round+1)
	k.must(t, "pause", string(k.id))
	if !k.op.paused {
		k.must(t, "resume", string(k.id))
	}
}

// gone begins a step that is the end of a file, rather than a line of the log.
const gone = "gone: "

// steps runs the operation to its end and returns what the log says of it. What
// is deleted says little, but its files go one after the other.
func (k *crashing) steps(t *testing.T) []string {
	t.Helper()
	k.acknowledged(t)
	var list []string
	if k.deletes() {
		for _, path := range files(t, k.home()) {
			list = append(list, gone+strings.TrimPrefix(path, k.home()))
		}
	}
	from := k.mark()
	k.must(t, k.op.args(k.id)...)
	for _, line := range k.since(from) {
		if st := stepOf(line); st != "" && !slices.Contains(list, st) {
			list = append(list, st)
		}
	}
	if len(list) == 0 {
		t.Fatalf("the log has no step of %s:\n%s", k.op.name, k.log())
	}
	k.tidy(t)
	return list
}

// cut begins the operation, calls kill once the step is done, and returns how
// the command ended. False: it came to its end without that step.
func (k *crashing) cut(t *testing.T, step string, kill func()) (result, bool) {
	t.Helper()
	var out, errs bytes.Buffer
	c := command(t, t.Context(), k.state, k.op.args(k.id)...)
	c.Env = append(c.Env, "DAYFLY_HOST="+k.host)
	c.Stdout, c.Stderr = &out, &errs
	from := k.mark()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bool
	if path, ok := strings.CutPrefix(step, gone); ok {
		seen = vanishes(k.home() + path)
	} else {
		seen = k.logged(from, func(line string) bool { return stepOf(line) == step })
	}
	kill()
	_ = c.Wait()
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}, seen
}

// vanishes waits until a file is not there.
func vanishes(path string) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// goOn lets the workspace go on after a kill and sees that its memory and its
// disk are of one moment, and no earlier than what was acknowledged.
func (k *crashing) goOn(t *testing.T) {
	t.Helper()
	args := append([]string{"resume", string(k.id)}, k.op.back...)
	if k.op.back != nil {
		args[0] = "rollback"
	}
	deadline := time.Now().Add(patience)
	for {
		r := k.run(t, args...)
		if r.code == 0 {
			break
		}
		// A machine that was killed is seen as ended a moment later.
		if !strings.Contains(r.stderr, "is running") || time.Now().After(deadline) {
			t.Fatalf("%q = %+v\n%s", args, r, tailOf(k.log()))
		}
		if len(processes(t, k.home())) == 1 && k.run(t, "exec", "--timeout", "10s", string(k.id), "--", "true").code == 0 {
			break // it was too late for a kill
		}
	}
	k.consistent(t)
}

func (k *crashing) consistent(t *testing.T) {
	t.Helper()
	k.goesOn(t, k.id, tally{pid: k.c.pid, files: k.c.files})
	var memory, disk int
	out := k.sh(t, k.id, "cat /dev/shm/round /home/user/round")
	if _, err := fmt.Sscan(out, &memory, &disk); err != nil || memory != disk {
		t.Fatalf("memory and disk are of different moments: %q", out)
	}
	if memory != k.round && k.op.back == nil {
		t.Fatalf("it is as in round %d; that of round %d was acknowledged", memory, k.round)
	}
}

func entries(t *testing.T, dirs ...string) []string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dirs...))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// tidy sees that a server that follows a killed one has left only what can be
// used, and deletes what the operation made beside the workspace.
func (k *crashing) tidy(t *testing.T) {
	t.Helper()
	list, err := k.Workspaces.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, ws := range list {
		known[string(ws.ID)] = true
		if ws.ID == k.id {
			continue
		}
		k.remove(t, ws.ID) // one that nobody was told of
	}
	for _, sub := range []string{"workspaces", "locks"} {
		for _, name := range entries(t, k.state, sub) {
			if !known[name] {
				t.Errorf("left behind: %s/%s", sub, name)
			}
		}
	}
	snaps, err := k.Snapshots.List(t.Context(), "")
	if err != nil || len(snaps) != len(entries(t, k.state, "snapshots")) {
		t.Errorf("snapshots: %+v of %q, %v", snaps, entries(t, k.state, "snapshots"), err)
	}
	for _, sn := range snaps {
		if sn.Name == "" { // whole, though nobody was told
			k.must(t, "snapshot", "rm", string(sn.ID))
		}
	}
	half, err := filepath.Glob(filepath.Join(k.state, "workspaces", "*", "pauses", ".*"))
	if err != nil || len(half) > 0 {
		t.Errorf("half a generation is left: %q, %v", half, err)
	}
}

// remove deletes a workspace that may be on its way out already.
func (k *crashing) remove(t *testing.T, id words.ID) {
	t.Helper()
	if r := k.run(t, "rm", string(id)); r.code != 0 && !strings.Contains(r.stderr, "there is no workspace") {
		t.Errorf("rm: %+v", r)
	}
}

// TestServerKilledAtAnyStepLosesNothing: a server is killed with -9 after every
// step of every operation. The next one finds nothing that nobody answers for,
// and the workspace goes on from where it was acknowledged to be, or later.
func TestServerKilledAtAnyStepLosesNothing(t *testing.T) {
	t.Parallel()
	for _, op := range operations {
		if op.copies {
			continue // all are killed anyway
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			k := newCrashing(t, op)
			for _, step := range k.steps(t) {
				k.ready(t)
				r, seen := k.cut(t, step, func() { k.kill(t) })
				if !seen {
					t.Fatalf("it never came to %s: %+v\n%s", step, r, k.log())
				}
				allEnded(t, k.state)
				k.server = serve(t, k.state)
				k.tidy(t)
				k.settle(t, r)
				if t.Failed() {
					t.Fatalf("after a kill at %s", step)
				}
			}
		})
	}
}

// allEnded waits until the VMMs of a killed server are gone: the kernel kills
// them with it, and each then takes its moment.
func allEnded(t *testing.T, state string) {
	t.Helper()
	if !comes(func() bool { return len(processes(t, state)) == 0 }) {
		t.Fatalf("left running: %q", processes(t, state))
	}
}

// ready brings the workspace, or a new one if it is deleted, to where the
// operation begins.
func (k *crashing) ready(t *testing.T) {
	t.Helper()
	ws, err := k.Workspaces.Get(t.Context(), k.id)
	switch {
	case words.KindOf(err) == words.NotFound:
		k.fresh(t)
	case err != nil:
		t.Fatal(err)
	case ws.State == words.Stopped:
		t.Fatalf("it is stopped: its memory is lost: %q", ws.Reason)
	case ws.State != words.Running:
		k.goOn(t)
	}
	k.acknowledged(t)
}

// settle sees what became of the workspace after the operation was cut short.
func (k *crashing) settle(t *testing.T, r result) {
	t.Helper()
	_, err := k.Workspaces.Get(t.Context(), k.id)
	switch {
	case k.deletes() && words.KindOf(err) == words.NotFound:
		return
	case k.deletes():
		if r.code == 0 {
			t.Errorf("it was said to be deleted: %+v", r)
		}
		k.remove(t, k.id) // it may go on by itself
		return
	case err != nil:
		t.Fatalf("the workspace is lost: %v", err)
	case k.op.copies && r.code == 0 && k.isIn(t, k.id) != words.Running:
		t.Errorf("the original is %s", k.isIn(t, k.id))
	case k.op.name == "pause" && r.code == 0 && k.isIn(t, k.id) != words.Paused:
		t.Errorf("it was said to be paused, and is %s", k.isIn(t, k.id))
	}
	k.goOn(t)
}

// allOrNone sees that a fork that failed has left no copy.
func (k *crashing) allOrNone(t *testing.T, r result) {
	t.Helper()
	list, err := k.Workspaces.List(t.Context())
	if made := len(strings.Fields(r.stdout)); err != nil || k.op.args(k.id)[0] == "fork" && len(list) != 1+made {
		t.Errorf("fork = %+v, and there is %+v, %v", r, list, err)
	}
}

// TestVMMKilledAtAnyStepLosesNothing: the same with the VMM of the workspace
// killed and the server left alive.
func TestVMMKilledAtAnyStepLosesNothing(t *testing.T) {
	t.Parallel()
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			k := newCrashing(t, op)
			for _, step := range k.steps(t) {
				k.ready(t)
				r, seen := k.cut(t, step, func() {
					for _, p := range processes(t, k.state) {
						if strings.Contains(p, string(k.id)) != op.copies {
							_ = unix.Kill(pidOf(t, p), unix.SIGKILL)
						}
					}
				})
				if !seen {
					t.Fatalf("it never came to %s: %+v\n%s", step, r, k.log())
				}
				k.allOrNone(t, r)
				k.settle(t, r)
				k.tidy(t)
				if t.Failed() {
					t.Fatalf("after a kill at %s", step)
				}
			}
		})
	}
}
