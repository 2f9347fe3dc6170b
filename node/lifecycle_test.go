package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// verbs are all that can be asked of a workspace, what it is then, and from
// where it may be asked. What changes nothing may be repeated.
var verbs = []struct {
	name string
	to   dayfly.State
	from []dayfly.State
	do   func(context.Context, *Node, subject) error
}{
	{"start", dayfly.Running, []dayfly.State{dayfly.Stopped, dayfly.Failed, dayfly.Paused}, func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Start(ctx, s.ID)
		return err
	}},
	{"stop", dayfly.Stopped, []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}, func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Stop(ctx, s.ID)
		return err
	}},
	{"pause", dayfly.Paused, []dayfly.State{dayfly.Running, dayfly.Paused}, func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Pause(ctx, s.ID)
		return err
	}},
	{"resume", dayfly.Running, []dayfly.State{dayfly.Paused}, func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Resume(ctx, s.ID)
		return err
	}},
	{"rollback", dayfly.Running, []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}, rollback},
	{"fork", dayfly.Running, []dayfly.State{dayfly.Running}, fork},
	{"snapshot", dayfly.Running, []dayfly.State{dayfly.Running}, func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Snapshot(ctx, s.ID, "")
		return err
	}},
	{"delete", dayfly.Deleted, []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}, func(ctx context.Context, n *Node, s subject) error {
		return n.Delete(ctx, s.ID)
	}},
}

// leadsTo reports whether the life cycle has a way from one state to another
// that passes at most through Creating.
func leadsTo(from, to dayfly.State) bool {
	next := from.Next()
	return from == to || slices.Contains(next, to) ||
		slices.Contains(next, dayfly.Creating) && slices.Contains(dayfly.Creating.Next(), to)
}

func TestEveryVerbInEveryStateFollowsTheLifeCycle(t *testing.T) {
	t.Parallel()
	for _, state := range []dayfly.State{dayfly.Running, dayfly.Paused, dayfly.Stopped, dayfly.Failed} {
		for _, v := range verbs {
			t.Run(string(state)+"/"+v.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				n := w.node(t)
				s := w.subject(t, n, state)
				before := w.files(t)
				err := v.do(t.Context(), n, s)
				if !slices.Contains(v.from, state) {
					if dayfly.KindOf(err) != dayfly.Conflict || !strings.Contains(err.Error(), string(state)) {
						t.Errorf("%s of a workspace that is %s = %v", v.name, state, err)
					}
					if diff := cmp.Diff(before, w.files(t)); diff != "" {
						t.Errorf("it changed something (-before +after):\n%s", diff)
					}
					w.check(t, n, s.ID, state, theNote)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if !leadsTo(state, v.to) {
					t.Errorf("%s leads from %s to %s, which the life cycle does not", v.name, state, v.to)
				}
				if ws, err := n.Get(t.Context(), s.ID); ws.State != v.to && (v.to != dayfly.Deleted || dayfly.KindOf(err) != dayfly.NotFound) {
					t.Errorf("after %s it is %s, %v", v.name, ws.State, err)
				}
			})
		}
	}
}

func TestVerbsOfADeletedWorkspaceFindNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	if err := n.Delete(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	for _, v := range verbs {
		if err := v.do(t.Context(), n, s); dayfly.KindOf(err) != dayfly.NotFound {
			t.Errorf("%s = %v", v.name, err)
		}
	}
	if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
		t.Fatal(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// both runs two verbs at once, many of each where there are more.
func both(verbs ...func() error) []error {
	errs := make([]error, len(verbs))
	var wg sync.WaitGroup
	for i, do := range verbs {
		wg.Go(func() { errs[i] = do() })
	}
	wg.Wait()
	return errs
}

// orRefused fails the test for an error that is neither of the kinds.
func orRefused(t *testing.T, what string, err error, kinds ...dayfly.Kind) {
	t.Helper()
	if err != nil && !slices.Contains(kinds, dayfly.KindOf(err)) {
		t.Errorf("%s = %v (%s)", what, err, dayfly.KindOf(err))
	}
}

func TestTwoResumesAtOnceMakeOneMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Paused)
	before := len(w.machines)
	resume := func() error { _, err := n.Resume(t.Context(), s.ID); return err }
	var won int
	for _, err := range both(resume, resume) {
		if err == nil {
			won++
		}
		orRefused(t, "Resume", err, dayfly.Conflict)
	}
	if won == 0 || len(w.machines) != before+1 || w.running() != 1 {
		t.Errorf("%d resumes won, %d machines were made, %d run", won, len(w.machines)-before, w.running())
	}
	w.check(t, n, s.ID, dayfly.Running, theNote)
}

func TestTwoNodesDoNotResumeTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n, other := w.node(t), w.node(t)
	s := w.subject(t, n, dayfly.Paused)
	if _, err := other.Resume(t.Context(), s.ID); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Resume by another process = %v", err)
	}
	w.check(t, n, s.ID, dayfly.Paused, theNote)
}

func TestDeleteWhileItResumesLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, r := range revival {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			s := w.subject(t, n, dayfly.Paused)
			var deleted error
			var wg sync.WaitGroup
			w.once(point{table: "revival", row: r.name}, func(ctx context.Context, _ point) error {
				wg.Go(func() { deleted = n.Delete(t.Context(), s.ID) })
				<-ctx.Done() // the delete ends the start
				return context.Cause(ctx)
			})
			_, err := n.Resume(t.Context(), s.ID)
			wg.Wait()
			if deleted != nil || dayfly.KindOf(err) != dayfly.Conflict {
				t.Errorf("Delete = %v, Resume = %v", deleted, err)
			}
			if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
				t.Error(err)
			}
			if left := w.left(t); len(left) > 0 || w.running() > 0 {
				t.Errorf("left behind: %q and %d machines", left, w.running())
			}
		})
	}
}

func TestPauseWhileItForksLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	var children []dayfly.Workspace
	errs := both(
		func() (err error) { children, err = n.Fork(t.Context(), s.ID, 2); return err },
		func() error { _, err := n.Pause(t.Context(), s.ID); return err },
	)
	orRefused(t, "Fork", errs[0], dayfly.Conflict)
	if errs[1] != nil {
		t.Errorf("Pause = %v", errs[1])
	}
	w.check(t, n, s.ID, dayfly.Paused, theNote)
	for _, c := range children {
		w.check(t, n, c.ID, dayfly.Running, theNote)
	}
}

func TestDeletedParentDoesNotHarmItsChildren(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	s := w.subject(t, n, dayfly.Running)
	children, err := n.Fork(t.Context(), s.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	child := children[0].ID
	w.write(t, n, child, "the child's")
	if err := errors.Join(n.Delete(t.Context(), s.ID), n.DeleteSnapshot(t.Context(), string(s.Snapshot))); err != nil {
		t.Fatal(err)
	}
	w.check(t, n, child, dayfly.Running, "the child's")
	for _, state := range []dayfly.State{dayfly.Paused, dayfly.Stopped} {
		w.bring(t, n, child, state)
		w.check(t, n, child, state, "the child's") // which lets it run again
	}
	grandchildren, err := n.Fork(t.Context(), child, 1)
	if err != nil || grandchildren[0].Parent != string(child) {
		t.Fatalf("Fork = %+v, %v", grandchildren, err)
	}
}

func TestSnapshotDeletedWhileAStartFromItIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, r := range revival {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			s := w.subject(t, n, dayfly.Running)
			w.once(point{table: "revival", row: r.name}, func(context.Context, point) error {
				if err := n.DeleteSnapshot(t.Context(), string(s.Snapshot)); err != nil {
					t.Error(err)
				}
				return nil
			})
			ws, err := n.Create(t.Context(), dayfly.Spec{Snapshot: string(s.Snapshot)})
			switch {
			case err == nil: // it had all that it needs
				w.check(t, n, ws.ID, dayfly.Running, snapshotNote)
				err = n.Delete(t.Context(), ws.ID)
			case stageOf(err) == "":
				t.Errorf("Create = %v, with no stage", err)
				err = nil
			default:
				err = nil
			}
			if err := errors.Join(err, n.Delete(t.Context(), s.ID)); err != nil {
				t.Error(err)
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestAnswerThatGetsLostLeavesNobodyFrozen: an agent that did what it was asked,
// of which the host never heard.
func TestAnswerThatGetsLostLeavesNobodyFrozen(t *testing.T) {
	t.Parallel()
	for _, u := range uses {
		if u.table != "pause" && u.table != "photo" {
			continue
		}
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			s := w.subject(t, n, dayfly.Running)
			before := w.files(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			heard := func(path string) {
				if path == wire.FreezePath {
					cancel()
				}
			}
			w.heard.Store(&heard)
			if err := u.do(ctx, n, s); stageOf(err) != "freeze" && stageOf(err) != "pause" {
				t.Fatalf("%s = %v", u.name, err)
			}
			w.heard.Store(nil)
			w.unharmed(t, n, u, s, before)
		})
	}
}

func TestGuestThatRefusesIsQuoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.init = func(wire.Init) (wire.InitReply, int) { return wire.InitReply{}, http.StatusTeapot }
	_, err := w.node(t).Create(t.Context(), another())
	if err == nil || errors.Is(err, io.EOF) || stageOf(err) != "init" {
		t.Errorf("Create = %v", err)
	}
}
