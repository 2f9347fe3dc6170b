package e2e

import (
	"strings"
	"testing"

	words "github.com/dayfly/dayfly"
)

// TestRollbackUndoesFilesAndProcesses: what was done since a snapshot is gone,
// in memory and on the disk, and what it undid is there again; twice over.
func TestRollbackUndoesFilesAndProcesses(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	s.sh(t, id, `echo kept > /home/user/file; echo gone > /home/user/gone; echo memory > /dev/shm/file`)
	s.must(t, "snapshot", "create", string(id), "--name", "before")
	c = s.goesOn(t, id, c)
	for range 2 {
		s.sh(t, id, `echo changed > /home/user/file; rm /home/user/gone; head -c 5000000 /dev/urandom > /home/user/new
echo changed > /dev/shm/file; sync; kill -9 $1`, pidText(c))
		if got := s.must(t, "rollback", string(id), "before"); len(got) != 1 || got[0] != string(id) {
			t.Fatalf("rollback printed %q", got)
		}
		if out := s.sh(t, id, `cat /home/user/file /home/user/gone /dev/shm/file; ls /home/user/new 2>&1 || true`); !strings.HasPrefix(out, "kept\ngone\nmemory\n") || !strings.Contains(out, "No such file") {
			t.Fatalf("after the rollback it has %s", out)
		}
		s.goesOn(t, id, tally{n: 1, pid: c.pid, files: c.files})
	}
	other := s.create(t)
	if r := s.run(t, "rollback", string(other), "before"); r.code != 1 || !strings.Contains(r.stderr, string(id)) {
		t.Errorf("rollback of another workspace = %+v", r)
	}
	s.sh(t, other, "true")
}

// TestSnapshotOutlivesItsWorkspaceAndItsChildrenOutliveIt: three workspaces
// begin where it was, the last when the original is deleted, and they go on, are
// paused and resumed when the snapshot is.
func TestSnapshotOutlivesItsWorkspaceAndItsChildrenOutliveIt(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	sum := s.sh(t, id, `head -c 3000000 /dev/urandom > /home/user/data; sha256sum /home/user/data`)
	snap := s.must(t, "snapshot", "create", string(id), "--name", "kept")
	if len(snap) != 1 {
		t.Fatalf("snapshot create printed %q", snap)
	}
	all := map[words.ID]map[string]string{}
	for i := range 3 {
		if i == 2 {
			s.must(t, "rm", string(id))
		}
		ws, err := s.Workspaces.Create(t.Context(), words.Spec{Snapshot: "kept", Keep: true})
		if err != nil || ws.StartKind != words.FromSnapshot || ws.Parent != snap[0] {
			t.Fatalf("it is said to be %+v, %v", ws, err)
		}
		s.goesOn(t, ws.ID, c)
		s.clockIsRight(t, ws.ID)
		s.sh(t, ws.ID, `printf %s "$1" | sha256sum --check --quiet`, sum)
		all[ws.ID] = s.about(t, ws.ID, identity)
	}
	different(t, all, "urandom", "uuid", "boot", "machine", "host")

	if r := s.run(t, "run", "--snapshot", "kept", "--", "sha256sum", "/home/user/data"); r.code != 0 || r.stdout != sum {
		t.Errorf("run --snapshot = %+v", r)
	}
	if got := s.must(t, "snapshot", "rm", "kept"); len(got) != 1 || got[0] != "kept" {
		t.Errorf("snapshot rm printed %q", got)
	}
	for id := range all {
		s.must(t, "pause", string(id))
		s.must(t, "resume", string(id))
		s.sh(t, id, `echo 3 | sudo tee /proc/sys/vm/drop_caches; printf %s "$1" | sha256sum --check --quiet`, sum)
		s.goesOn(t, id, c)
	}
}

// TestChildOfAForkOutlivesItsParent: neither the parent's deletion nor that of
// its key takes anything from its copies, which can be copied again.
func TestChildOfAForkOutlivesItsParent(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	child := words.ID(s.must(t, "fork", string(id))[0])
	s.must(t, "rm", string(id))
	c = s.goesOn(t, child, c)
	grandchild := words.ID(s.must(t, "fork", string(child))[0])
	s.must(t, "pause", string(child))
	s.goesOn(t, grandchild, c)
	s.must(t, "resume", string(child))
	s.goesOn(t, child, c)
}
