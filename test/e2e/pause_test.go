package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
)

// TestPausedWorkspaceOutlivesItsServer: killed or stopped in order, the next
// server lets a process go on with its memory, its pid and its open files.
func TestPausedWorkspaceOutlivesItsServer(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	for _, end := range []func(*server, *testing.T){(*server).kill, (*server).stop} {
		if got := s.must(t, "pause", string(id)); len(got) != 1 || got[0] != string(id) {
			t.Fatalf("pause printed %q", got)
		}
		if got := s.isIn(t, id); got != words.Paused {
			t.Fatalf("it is %s", got)
		}
		end(s, t)
		s = serve(t, state)
		if got := s.isIn(t, id); got != words.Paused {
			t.Fatalf("after the server ended it is %s", got)
		}
		if got := s.must(t, "resume", string(id)); len(got) != 1 || got[0] != string(id) {
			t.Fatalf("resume printed %q", got)
		}
		c = s.goesOn(t, id, c)
	}
}

// TestPausesInARow: what is written between pauses stays, whatever number of
// them lie above it, and a process that never ended has seen all of them.
func TestPausesInARow(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	var sums []string
	for range 5 {
		sums = append(sums, s.sh(t, id, `f=$(mktemp /home/user/data.XXXXXX); head -c 3000000 /dev/urandom > $f; sha256sum $f`))
		s.must(t, "pause", string(id))
		s.must(t, "resume", string(id))
		s.sh(t, id, `echo 3 | sudo tee /proc/sys/vm/drop_caches; printf %s "$1" | sha256sum --check --quiet`, strings.Join(sums, ""))
		c = s.goesOn(t, id, c)
	}
	left, err := filepath.Glob(filepath.Join(state, "workspaces", string(id), "pauses", "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("pauses kept once the latest was resumed: %q, %v", left, err)
	}
}

// TestDamagedPauseIsRefusedByName: no file of a generation is used once a byte
// of it has changed, and the error says which; with the byte put back it goes
// on, and it can be deleted either way.
func TestDamagedPauseIsRefusedByName(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	s.must(t, "pause", string(id))
	files, err := filepath.Glob(filepath.Join(state, "workspaces", string(id), "pauses", "1", "*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("the generation has %q, %v", files, err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		undo := func() {}
		for _, part := range []float64{0, 0.5, 0.999} {
			refused(t, s, id, name, func() (err error) { undo, err = flip(path, part); return err })
			undo()
		}
	}
	s.must(t, "resume", string(id))
	s.goesOn(t, id, c)
	s.must(t, "pause", string(id))
	if _, err := flip(filepath.Join(state, "workspaces", string(id), "pauses", "2", "manifest.json"), 0.5); err != nil {
		t.Fatal(err)
	}
	if r := s.run(t, "rm", string(id)); r.code != 0 {
		t.Errorf("rm of a damaged one = %+v", r)
	}
}

// refused does damage to a paused workspace and sees that it is not resumed.
func refused(t *testing.T, s *server, id words.ID, name string, damage func() error) {
	t.Helper()
	if err := damage(); err != nil {
		t.Fatal(err)
	}
	r := s.run(t, "resume", string(id))
	if r.code != 1 || !strings.Contains(r.stderr, name) || !strings.Contains(r.stderr, "damaged") {
		t.Errorf("resume with a damaged %s = %+v", name, r)
	}
	if got := s.isIn(t, id); got != words.Paused {
		t.Errorf("after a resume with a damaged %s it is %s", name, got)
	}
}

// flip changes one bit of a file, and returns what puts it back.
func flip(path string, part float64) (undo func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, off := make([]byte, 1), int64(float64(fi.Size()-1)*part)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil, err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b, off)
	return func() { _, _ = flip(path, part) }, err
}
