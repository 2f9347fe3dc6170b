package node

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm/fake"
)

// life is what a workspace should be, or a snapshot.
type life struct {
	id        dayfly.ID
	of        dayfly.ID // only of a snapshot
	state     dayfly.State
	ram, disk string // the notes it should have
}

// walk is a random walk over verbs, beside a model of what they should lead to.
type walk struct {
	w     *world
	n     *Node
	ctx   context.Context //nolint:containedctx // of one test
	all   []*life
	shots []*life
	notes int
}

// TestMemoryAndDiskAlwaysMatch: whatever is done in whatever order, every
// workspace has the memory and the disk of one instant, its own. That no layer is
// written that has another link is watched by the world.
func TestMemoryAndDiskAlwaysMatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.mergeAbove = rapid.SampledFrom([]int{0, 2}).Draw(rt, "merge above")
		s := &walk{w: w, n: w.open(t), ctx: t.Context()}
		defer func() {
			if err := s.n.Close(); err != nil {
				rt.Errorf("Close: %v", err)
			}
		}()
		s.create(rt)
		steps := []func(*rapid.T){
			s.write, s.pause, s.resume, s.stop, s.start, s.snapshot, s.rollback, s.fork, s.revive, s.remove, s.forget, s.reopen, s.crash,
		}
		for range rapid.IntRange(5, 30).Draw(rt, "steps") {
			steps[rapid.IntRange(0, len(steps)-1).Draw(rt, "step")](rt)
			s.check(rt)
		}
		s.clear(rt)
	})
}

// maxLives bounds how many workspaces a walk has at once.
const maxLives = 4

// pick draws a workspace in one of the states, or nil.
func (s *walk) pick(rt *rapid.T, states ...dayfly.State) *life {
	var some []*life
	for _, l := range s.all {
		for _, state := range states {
			if l.state == state {
				some = append(some, l)
			}
		}
	}
	if some == nil {
		return nil
	}
	return some[rapid.IntRange(0, len(some)-1).Draw(rt, "workspace")]
}

func (s *walk) shot(rt *rapid.T) *life {
	if len(s.shots) == 0 {
		return nil
	}
	return s.shots[rapid.IntRange(0, len(s.shots)-1).Draw(rt, "snapshot")]
}

func must(rt *rapid.T, what string, err error) {
	if err != nil {
		rt.Fatalf("%s = %v", what, err)
	}
}

func (s *walk) create(rt *rapid.T) {
	kept := another()
	kept.Keep = true
	ws, err := s.n.Create(s.ctx, kept)
	must(rt, "Create", err)
	s.all = append(s.all, &life{id: ws.ID, state: dayfly.Running})
}

func (s *walk) write(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Running); l != nil {
		s.notes++
		l.ram = fmt.Sprint("note ", s.notes)
		l.disk = l.ram
		must(rt, "note", tell(s.ctx, s.n, l.id, "/note", l.ram, nil))
	}
}

func (s *walk) pause(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Running, dayfly.Paused); l != nil {
		_, err := s.n.Pause(s.ctx, l.id)
		must(rt, "Pause", err)
		l.state = dayfly.Paused
	}
}

func (s *walk) resume(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Paused); l != nil {
		_, err := s.n.Resume(s.ctx, l.id)
		must(rt, "Resume", err)
		l.state = dayfly.Running
	}
}

func (s *walk) stop(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Running, dayfly.Paused); l != nil {
		_, err := s.n.Stop(s.ctx, l.id)
		must(rt, "Stop", err)
		l.state, l.ram = dayfly.Stopped, ""
	}
}

func (s *walk) start(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Stopped, dayfly.Failed); l != nil {
		_, err := s.n.Start(s.ctx, l.id)
		must(rt, "Start", err)
		l.state, l.ram = dayfly.Running, ""
	}
}

func (s *walk) snapshot(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Running); l != nil {
		shot, err := s.n.Snapshot(s.ctx, l.id, "")
		must(rt, "Snapshot", err)
		s.shots = append(s.shots, &life{id: shot.ID, of: l.id, ram: l.ram, disk: l.disk})
	}
}

func (s *walk) rollback(rt *rapid.T) {
	shot := s.shot(rt)
	if shot == nil {
		return
	}
	for _, l := range s.all {
		if l.id == shot.of {
			_, err := s.n.Rollback(s.ctx, l.id, string(shot.id))
			must(rt, "Rollback", err)
			l.state, l.ram, l.disk = dayfly.Running, shot.ram, shot.disk
		}
	}
}

func (s *walk) fork(rt *rapid.T) {
	if l := s.pick(rt, dayfly.Running); l != nil && len(s.all) < maxLives {
		children, err := s.n.Fork(s.ctx, l.id, 1)
		must(rt, "Fork", err)
		s.all = append(s.all, &life{id: children[0].ID, state: dayfly.Running, ram: l.ram, disk: l.disk})
	}
}

// revive starts a workspace from a snapshot.
func (s *walk) revive(rt *rapid.T) {
	if shot := s.shot(rt); shot != nil && len(s.all) < maxLives {
		ws, err := s.n.Create(s.ctx, dayfly.Spec{Snapshot: string(shot.id), Keep: true})
		must(rt, "Create from a snapshot", err)
		s.all = append(s.all, &life{id: ws.ID, state: dayfly.Running, ram: shot.ram, disk: shot.disk})
	}
}

func (s *walk) remove(rt *rapid.T) {
	if len(s.all) < 2 {
		return
	}
	i := rapid.IntRange(0, len(s.all)-1).Draw(rt, "deleted")
	must(rt, "Delete", s.n.Delete(s.ctx, s.all[i].id))
	s.all = append(s.all[:i:i], s.all[i+1:]...)
}

// forget deletes a snapshot.
func (s *walk) forget(rt *rapid.T) {
	if len(s.shots) == 0 {
		return
	}
	i := rapid.IntRange(0, len(s.shots)-1).Draw(rt, "forgotten")
	must(rt, "DeleteSnapshot", s.n.DeleteSnapshot(s.ctx, string(s.shots[i].id)))
	s.shots = append(s.shots[:i:i], s.shots[i+1:]...)
}

// crash lets a VMM die.
func (s *walk) crash(rt *rapid.T) {
	l := s.pick(rt, dayfly.Running)
	if l == nil {
		return
	}
	s.w.mu.Lock()
	m := s.w.latest[string(l.id)]
	s.w.mu.Unlock()
	must(rt, "Crash", fake.Crash(m))
	<-m.Done()
	l.state, l.ram = dayfly.Failed, ""
	for {
		if ws, err := s.n.Get(s.ctx, l.id); err != nil || ws.State == l.state {
			must(rt, "Get", err)
			return
		}
	}
}

// reopen lets one process end, which stops what runs, and another begin.
func (s *walk) reopen(rt *rapid.T) {
	must(rt, "Close", s.n.Close())
	c, err := s.w.config()
	must(rt, "keyring", err)
	s.n, err = Open(s.ctx, c)
	must(rt, "Open", err)
	for _, l := range s.all {
		if l.state == dayfly.Running {
			l.state, l.ram = dayfly.Stopped, ""
		}
	}
}

// check holds every workspace to the model.
func (s *walk) check(rt *rapid.T) {
	machines := 0
	for _, l := range s.all {
		ws, err := s.n.Get(s.ctx, l.id)
		if err != nil || ws.State != l.state {
			rt.Fatalf("%s is %s (%s), %v; it should be %s", l.id, ws.State, ws.Reason, err, l.state)
		}
		if l.state != dayfly.Running {
			continue
		}
		machines++
		var m mind
		must(rt, "mind", tell(s.ctx, s.n, l.id, "/mind", nil, &m))
		if m.Note != l.ram || m.Disk != l.disk || m.Frozen || m.ID != string(l.id) {
			rt.Fatalf("%s has %+v, not %+v", l.id, m, *l)
		}
	}
	if got := s.w.running(); got != machines {
		rt.Fatalf("%d machines run for %d workspaces", got, machines)
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.sins != nil {
		rt.Fatalf("%q", s.w.sins)
	}
}

// clear deletes everything, which must leave nothing.
func (s *walk) clear(rt *rapid.T) {
	for _, l := range s.all {
		must(rt, "Delete", s.n.Delete(s.ctx, l.id))
	}
	for _, shot := range s.shots {
		must(rt, "DeleteSnapshot", s.n.DeleteSnapshot(s.ctx, string(shot.id)))
	}
	left, err := s.w.entries()
	if err != nil || len(left) > 0 {
		rt.Fatalf("left behind: %q, %v", left, err)
	}
}
