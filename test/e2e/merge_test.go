package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	words "github.com/dayfly/dayfly"
)

// mergeAbove is a configuration in which few layers are many, and three times as
// many too many to go on without a merge.
func mergeAbove(t *testing.T, layers int) (flag, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "merge_above: %d\n", layers), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--config", file
}

// layers counts those of a workspace's disk.
func (s *server) layers(t *testing.T, id words.ID) int {
	t.Helper()
	return len(glob(t, filepath.Join(s.state, "workspaces", string(id), "disk*")))
}

// version leaves in a workspace's disk what only one of its snapshots has.
const version = `echo "$1" > /home/user/version
head -c 500000 /dev/urandom > /home/user/data.$1
rm -f /home/user/data.$2
sha256sum /home/user/data.* > /home/user/sums
sync`

const intact = `echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null
sha256sum --check --quiet /home/user/sums && cat /home/user/version`

// TestSnapshotsNeverUseUpADisk: many are taken of one running workspace, by one
// server after the other. The disk has few layers in the end, what is on it is
// right, and each snapshot is as it was.
func TestSnapshotsNeverUseUpADisk(t *testing.T) {
	t.Parallel()
	state := newState(t)
	flag, file := mergeAbove(t, 3)
	s := serveOn(t, state, flag, file)
	id := s.create(t)
	c := s.count(t, id)
	const last = 9
	for i := range last + 1 {
		s.sh(t, id, version, fmt.Sprint(i), fmt.Sprint(i-3))
		s.must(t, "snapshot", "create", string(id), "--name", fmt.Sprint("v", i))
		if i%4 == 3 { // perhaps in the middle of a merge
			s.kill(t)
			s = serveOn(t, state, flag, file)
		}
		if got := s.layers(t, id); got > 3*3+1 {
			t.Errorf("the disk has %d layers", got)
		}
	}
	// Nothing above waits for a merge to end; this does.
	s.settle(t, id, 3)
	right := func(id words.ID, want int) {
		t.Helper()
		if got := s.sh(t, id, intact); got != fmt.Sprintln(want) {
			t.Errorf("%s has version %q, want %d", id, got, want)
		}
	}
	right(id, last)
	c = s.goesOn(t, id, c)
	for _, i := range []int{0, 5, last} {
		ws, err := s.Workspaces.Create(t.Context(), words.Spec{Snapshot: fmt.Sprint("v", i), Keep: true})
		if err != nil {
			t.Fatal(err)
		}
		right(ws.ID, i)
		if err := s.Workspaces.Delete(t.Context(), ws.ID); err != nil {
			t.Error(err)
		}
	}
	s.must(t, "pause", string(id))
	s.must(t, "resume", string(id))
	right(id, last)
	s.goesOn(t, id, c)
	s.must(t, "stop", string(id))
	s.must(t, "start", string(id))
	right(id, last)
	s.must(t, "rollback", string(id), "v2")
	right(id, 2)
}

// settle takes snapshots until there are enough layers, and waits until they are merged.
func (s *server) settle(t *testing.T, id words.ID, above int) {
	t.Helper()
	for s.layers(t, id) <= above {
		s.sh(t, id, "echo again >> /home/user/again; sync")
		s.must(t, "snapshot", "create", string(id))
	}
	s.until(t, "its layers are merged", func() bool { return s.layers(t, id) == 2 })
}

// until waits for what happens without anybody's doing.
func (s *server) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	if !comes(is) {
		t.Fatalf("it is not so that %s:\n%s", what, tailOf(s.log()))
	}
}

// comes waits for something to be so. Between two looks it leaves the processors to
// those whose doing it is. False: it was not so for long.
func comes(is func() bool) bool {
	late, look := time.NewTimer(patience), time.NewTicker(20*time.Millisecond)
	defer late.Stop()
	defer look.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-late.C:
			return false
		}
	}
	return true
}

// TestVMMThatIsKilledAfterAMergeHasLostNothing: what the guest had written out is
// there, though the layers are gone in which it was.
func TestVMMThatIsKilledAfterAMergeHasLostNothing(t *testing.T) {
	t.Parallel()
	state := newState(t)
	flag, file := mergeAbove(t, 4)
	s := serve(t, state, flag, file)
	id := s.create(t)
	const last = 3
	for i := range last + 1 {
		s.sh(t, id, version, fmt.Sprint(i), "none")
		s.must(t, "snapshot", "create", string(id))
	}
	s.until(t, "its layers are merged", func() bool { return s.layers(t, id) == 2 })
	for _, p := range processes(t, state) {
		if err := syscall.Kill(pidOf(t, p), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	s.until(t, "it has failed", func() bool { return s.isIn(t, id) == words.Failed })
	s.must(t, "start", string(id))
	if got := s.sh(t, id, intact); got != fmt.Sprintln(last) {
		t.Errorf("it has version %q", got)
	}
}
