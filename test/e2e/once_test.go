package e2e

import (
	"sync"
	"testing"

	words "github.com/dayfly/dayfly"
)

// together does things at once and returns how each ended.
func together(do ...func() error) []error {
	errs := make([]error, len(do))
	var wg sync.WaitGroup
	for i, f := range do {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errs
}

// TestResumesAtOnceMakeOneMachine: of several that resume one pause, one does.
func TestResumesAtOnceMakeOneMachine(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	c := s.count(t, id)
	s.must(t, "pause", string(id))
	resume := func() error { _, err := s.Workspaces.Resume(t.Context(), id); return err }
	resumed := 0
	for _, err := range together(resume, resume, resume) {
		if err == nil {
			resumed++
		} else if words.KindOf(err) != words.Conflict {
			t.Error(err)
		}
	}
	if vmms := processes(t, state); resumed != 1 || len(vmms) != 1 {
		t.Errorf("%d were told that it was resumed, and these run: %q", resumed, vmms)
	}
	s.goesOn(t, id, c)
}

// TestDeleteWinsOverEverything: what is deleted is gone, whatever else is asked
// for at the same time, and nobody is told of a machine that is not there.
func TestDeleteWinsOverEverything(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	s.must(t, "snapshot", "create", string(id), "--name", "first")
	s.must(t, "rm", string(id))
	for name, do := range map[string]func(words.ID) error{
		"resume": func(id words.ID) error { _, err := s.Workspaces.Resume(t.Context(), id); return err },
		"pause":  func(id words.ID) error { _, err := s.Workspaces.Pause(t.Context(), id); return err },
		"fork":   func(id words.ID) error { _, err := s.Workspaces.Fork(t.Context(), id, 2); return err },
		"stop":   func(id words.ID) error { _, err := s.Workspaces.Stop(t.Context(), id); return err },
	} {
		ws, err := s.Workspaces.Create(t.Context(), words.Spec{Snapshot: "first", Keep: true})
		if err != nil {
			t.Fatal(err)
		}
		if name == "resume" {
			s.must(t, "pause", string(ws.ID))
		}
		errs := together(func() error { return do(ws.ID) }, func() error { return s.Workspaces.Delete(t.Context(), ws.ID) })
		if errs[1] != nil {
			t.Errorf("delete during a %s: %v", name, errs[1])
		}
		if _, err := s.Workspaces.Get(t.Context(), ws.ID); words.KindOf(err) != words.NotFound {
			t.Errorf("deleted during a %s, which ended with %v, it is found: %v", name, errs[0], err)
		}
		if vmms := processes(t, string(ws.ID)); len(vmms) > 0 {
			t.Errorf("left running by a %s: %q", name, vmms)
		}
		s.clearWorkspaces(t) // a fork's copies
	}
}
