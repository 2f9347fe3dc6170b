package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/fake"
)

// newServers is a world whose nodes are servers': their machines outlive them.
func newServers(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.outlive = true
	return w
}

// end deletes a workspace of a server, which would run on.
func (w *world) end(t *testing.T, n *Node, ids ...dayfly.ID) {
	t.Helper()
	for _, id := range ids {
		if err := n.Delete(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// next closes a server, and opens another.
func (w *world) next(t *testing.T, n *Node) *Node {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	w.reboot()
	return w.node(t)
}

// TestRunningWorkspaceOutlivesItsServer: whatever is asked of a workspace that
// was taken over works as with any other.
func TestRunningWorkspaceOutlivesItsServer(t *testing.T) {
	t.Parallel()
	for _, v := range verbs {
		if v.name == "start" {
			continue // it runs
		}
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			w := newServers(t)
			first := w.open(t)
			s := w.subject(t, first, dayfly.Running)
			n := w.next(t, first)
			w.check(t, n, s.ID, dayfly.Running, theNote)
			if err := v.do(t.Context(), n, s); err != nil && v.name != "resume" {
				t.Fatalf("%s = %v", v.name, err)
			}
			if v.to != dayfly.Deleted {
				ws, err := n.Get(t.Context(), s.ID)
				if err != nil || ws.State != v.to {
					t.Errorf("it is %s, %v, want %s", ws.State, err, v.to)
				}
			}
			list, err := n.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, ws := range list {
				if err := n.Delete(t.Context(), ws.ID); err != nil {
					t.Error(err)
				}
			}
			snaps, err := n.Snapshots(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, snap := range snaps {
				if err := n.DeleteSnapshot(t.Context(), string(snap.ID)); err != nil {
					t.Error(err)
				}
			}
			w.end(t, n)
		})
	}
}

// TestManyServersOneAfterTheOther: a workspace that nobody keeps outlives them
// all, and its machine's end is noticed by the last.
func TestManyServersOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	n := w.open(t)
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		note := "of server " + strconv.Itoa(i)
		w.write(t, n, ws.ID, note)
		n = w.next(t, n)
		w.check(t, n, ws.ID, dayfly.Running, note)
	}
	w.crash(t)
	w.await(t, n, ws.ID, dayfly.Failed)
	n = w.next(t, n)
	if got, err := n.Get(t.Context(), ws.ID); err != nil || got.State != dayfly.Failed {
		t.Errorf("a failed workspace is %s, %v for the next server", got.State, err)
	}
	w.end(t, n, ws.ID)
}

// kill lets a process die that has a driver: nothing of it works any more, and
// its locks are free.
func (w *world) kill(t *testing.T, d *driver) {
	t.Helper()
	d.Kill()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Error(err)
	}
	for _, e := range open {
		number, _ := strconv.Atoi(e.Name())
		fd, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 0) // what it is stays so while it is looked at
		if err != nil {
			continue
		}
		path, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if strings.HasPrefix(path, filepath.Join(w.dir, "locks")+"/") {
			_ = unix.Flock(fd, unix.LOCK_UN)
		}
		_ = unix.Close(fd)
	}
}

var errDead = errors.New("it should be dead")

// murder runs do until it passes the point, where its process dies: it stands
// still there until the test is over.
func (w *world) murder(t *testing.T, at point, ahead func(point) error, do func() error) {
	t.Helper()
	d, ok := w.driver.(*driver)
	if !ok {
		t.Fatal("no driver that can be killed")
	}
	died, grave, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	w.once(at, func(_ context.Context, p point) error {
		if ahead != nil {
			if err := ahead(p); err != nil {
				t.Error(err)
			}
		}
		w.kill(t, d)
		close(died)
		<-grave
		return errDead
	})
	go func() { over <- do() }()
	select {
	case <-died:
	case err := <-over:
		t.Fatalf("it ended without passing %+v: %v", at, err)
	}
	t.Cleanup(func() { // after the next process has closed
		close(grave)
		<-over
	})
	w.reboot()
}

// TestServerThatDiesLosesNothing kills a server in every row of every use, and
// lets another take over. The machines of the fake driver live in this process,
// so that the dead server is one that stands still and whose driver and locks
// were taken from it.
func TestServerThatDiesLosesNothing(t *testing.T) {
	t.Parallel()
	for _, d := range deaths() {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			w := newServers(t)
			d.Dir = w.dir
			u := useNamed(d.Use)
			do := u.do
			if strings.Contains(u.name, "fork") { // of two copies the other would go on
				do = func(ctx context.Context, n *Node, s subject) error { _, err := n.Fork(ctx, s.ID, 1); return err }
			}
			w.mergeAbove = u.mergeAbove
			dead := w.open(t)
			s := w.subject(t, dead, u.state)
			b, err := json.Marshal(s)
			if err == nil {
				err = os.WriteFile(filepath.Join(w.dir, dying), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = dead.Close() })
			w.murder(t, point{table: u.table, row: d.Row, after: d.After}, nil, func() error { return do(context.Background(), dead, s) })
			d.bury(t, w)
		})
	}
}

// TestServerThatDiesTakingOverLosesNothing: the next one takes over.
func TestServerThatDiesTakingOverLosesNothing(t *testing.T) {
	t.Parallel()
	for _, row := range tables()["handover"] {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			w := newServers(t)
			first := w.open(t)
			s := w.subject(t, first, dayfly.Running)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			w.reboot()
			c, err := w.config()
			if err != nil {
				t.Fatal(err)
			}
			w.murder(t, point{table: "handover", row: row, after: true}, nil, func() error {
				dead, err := Open(context.Background(), c)
				if err == nil {
					err = dead.Close()
				}
				return err
			})
			n := w.node(t)
			w.check(t, n, s.ID, dayfly.Running, theNote)
			if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
				t.Error(err)
			}
			w.end(t, n, s.ID)
		})
	}
}

// TestLayerThatWasNeverPushedIsRemoved: the process dies when it has made the
// file, and the machine does not know it.
func TestLayerThatWasNeverPushedIsRemoved(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	dead := w.open(t)
	s := w.subject(t, dead, dayfly.Running)
	t.Cleanup(func() { _ = dead.Close() })
	var made string
	w.murder(t, point{table: "photo", row: "layer"}, func(p point) error {
		layers, err := chain(p.dir)
		made = nextLayer(p.dir, layers)
		return errors.Join(err, vmm.CreateLayer(made, diskBytes))
	}, func() error { _, err := dead.Snapshot(context.Background(), s.ID, ""); return err })
	n := w.node(t)
	w.check(t, n, s.ID, dayfly.Running, theNote)
	if _, err := os.Lstat(made); err == nil {
		t.Errorf("%s is still there", made)
	}
	for range 2 {
		if _, err := n.Snapshot(t.Context(), s.ID, ""); err != nil {
			t.Fatal(err)
		}
	}
	w.write(t, n, s.ID, "later")
	w.check(t, n, s.ID, dayfly.Running, "later")
	snaps, err := n.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range snaps {
		if err := n.DeleteSnapshot(t.Context(), string(snap.ID)); err != nil {
			t.Error(err)
		}
	}
	w.end(t, n, s.ID)
}

// TestRowOfAHandoverThatFailsFailsTheWorkspace, and that one alone. Its machine
// ends, and it can be started again.
func TestRowOfAHandoverThatFailsFailsTheWorkspace(t *testing.T) {
	t.Parallel()
	for _, row := range tables()["handover"] {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			w := newServers(t)
			first := w.open(t)
			var ids []dayfly.ID
			for range 2 {
				ws, err := first.Create(t.Context(), spec)
				if err != nil {
					t.Fatal(err)
				}
				w.write(t, first, ws.ID, theNote)
				ids = append(ids, ws.ID)
			}
			victim := workspaceDir(w.dir, ids[0])
			hook := func(_ context.Context, p point) error {
				if p.table == "handover" && p.row == row && p.dir == victim && p.after {
					return errBoom
				}
				return nil
			}
			w.hook.Store(&hook)
			n := w.next(t, first)
			w.hook.Store(nil)
			ws, err := n.Get(t.Context(), ids[0])
			if err != nil || ws.State != dayfly.Failed || !strings.Contains(ws.Reason, "could not be taken over") {
				t.Fatalf("it is %s (%s), %v", ws.State, ws.Reason, err)
			}
			if got := w.running(); got != 1 {
				t.Errorf("%d machines run", got)
			}
			w.check(t, n, ids[0], dayfly.Failed, theNote) // which starts it
			w.check(t, n, ids[1], dayfly.Running, theNote)
			w.end(t, n, ids...)
		})
	}
}

// TestSilentGuestHoldsUpNobody: it is failed, and the others go on.
func TestSilentGuestHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	first := w.open(t)
	deaf, err := first.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	fine, err := first.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// Its channel is somebody else's, who says nothing.
	thief, err := fake.New(w.guest, nil).Adopt(t.Context(), vmm.Config{ID: string(deaf.ID), Dir: workspaceDir(w.dir, deaf.ID)})
	if err != nil {
		t.Fatal(err)
	}
	w.reboot()
	c, err := w.config()
	if err != nil {
		t.Fatal(err)
	}
	c.BootDeadline = 2 * time.Second // which the other one has, too, beside whatever else runs
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ws, err := n.Get(t.Context(), deaf.ID)
	if err != nil || ws.State != dayfly.Failed {
		t.Errorf("it is %s (%s), %v", ws.State, ws.Reason, err)
	}
	<-thief.Done() // it was ended
	w.check(t, n, fine.ID, dayfly.Running, "")
	w.end(t, n, deaf.ID, fine.ID)
}

// TestMachineThatEndedUnwatchedIsFailed, whether anything of it is left or not.
func TestMachineThatEndedUnwatchedIsFailed(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	var changes []dayfly.Workspace
	first := w.open(t)
	ws, err := first.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := fake.KillOrphans(t.Context(), w.dir); err != nil {
		t.Fatal(err)
	}
	w.changed = func(ws dayfly.Workspace) { changes = append(changes, ws) }
	w.reboot()
	n := w.node(t)
	got, err := n.Get(t.Context(), ws.ID)
	if err != nil || got.State != dayfly.Failed || !strings.Contains(got.Reason, "ended while no process owned it") {
		t.Errorf("it is %s (%s), %v", got.State, got.Reason, err)
	}
	if len(changes) != 1 || changes[0].ID != ws.ID || changes[0].State != dayfly.Failed {
		t.Errorf("told were %+v", changes)
	}
	w.end(t, n, ws.ID)
}

// TestGuestThatEndedUnwatchedSaysHow: its VMM is there to be asked.
func TestGuestThatEndedUnwatchedSaysHow(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	first := w.open(t)
	ws, err := first.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	w.once(point{table: "handover", row: "go on"}, func(context.Context, point) error {
		w.crash(t)
		return errBoom
	})
	w.reboot()
	n := w.node(t)
	got, err := n.Get(t.Context(), ws.ID)
	if err != nil || got.State != dayfly.Failed || !strings.HasPrefix(got.Reason, "the VMM process ended") {
		t.Errorf("it is %s (%s), %v", got.State, got.Reason, err)
	}
	w.end(t, n, ws.ID)
}

// TestStopThatWasCutShortIsFinished: the guest was asked to power off.
func TestStopThatWasCutShortIsFinished(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	first := w.open(t)
	ws, err := first.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, first, ws.ID, theNote)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	dir := workspaceDir(w.dir, ws.ID)
	r, err := readRecord(w.dir, ws.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.Stopping = true
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	w.reboot()
	n := w.node(t)
	w.check(t, n, ws.ID, dayfly.Stopped, theNote)
	w.end(t, n, ws.ID)
}

// TestProcessOfOneCommandLeavesServersAlone: it sees what they left running, and
// ends none of it unasked. What it is asked to do with one, it does.
func TestProcessOfOneCommandLeavesServersAlone(t *testing.T) {
	t.Parallel()
	w := newServers(t)
	server := w.open(t)
	var ids []dayfly.ID
	for range 3 {
		ws, err := server.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, server, ws.ID, theNote)
		ids = append(ids, ws.ID)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	w.outlive = false
	w.reboot()
	command := w.open(t)
	list, err := command.List(t.Context())
	if err != nil || len(list) != len(ids) {
		t.Fatalf("List = %+v, %v", list, err)
	}
	for _, ws := range list {
		if ws.State != dayfly.Running {
			t.Errorf("%s is %s (%s)", ws.ID, ws.State, ws.Reason)
		}
	}
	if _, err := command.Stop(t.Context(), ids[0]); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := command.Delete(t.Context(), ids[1]); err != nil {
		t.Errorf("Delete = %v", err)
	}
	snap, err := command.Snapshot(t.Context(), ids[2], "")
	if err != nil {
		t.Fatalf("Snapshot = %v", err)
	}
	if err := command.DeleteSnapshot(t.Context(), string(snap.ID)); err != nil {
		t.Error(err)
	}
	w.outlive = true
	n := w.next(t, command)
	w.check(t, n, ids[2], dayfly.Running, theNote)
	w.check(t, n, ids[0], dayfly.Stopped, theNote)
	w.end(t, n, ids[0], ids[2])
}

// TestStandbyMachinesEndWithTheServer: what was claimed of them runs on.
func TestStandbyMachinesEndWithTheServer(t *testing.T) { //nolint:paralleltest // a standby machine's parts are made by programs
	w := newServers(t)
	c, err := w.config()
	if err != nil {
		t.Fatal(err)
	}
	c.Standby = Standby{Count: 1, CPUs: 1, MemoryMiB: spec.MemoryMiB}
	first, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	awaitSpare(t, first)
	auto := another()
	auto.Accel = dayfly.Auto
	ws, err := first.Create(t.Context(), auto)
	if err != nil || ws.StartKind != dayfly.Claim {
		t.Fatalf("Create = %s (%s), %v", ws.StartKind, ws.StartNote, err)
	}
	w.write(t, first, ws.ID, theNote)
	n := w.next(t, first)
	if pids, err := fake.Orphans(t.Context(), w.dir); err != nil || len(pids) != 1 {
		t.Errorf("machines %v run, %v", pids, err)
	}
	w.check(t, n, ws.ID, dayfly.Running, theNote)
	w.end(t, n, ws.ID)
}

// awaitSpare returns when a standby machine is ready.
func awaitSpare(t *testing.T, n *Node) {
	t.Helper()
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		n.standby.mu.Lock()
		ready := len(n.standby.ready)
		n.standby.mu.Unlock()
		if ready > 0 {
			return
		}
	}
	t.Fatal("no standby machine was made")
}
