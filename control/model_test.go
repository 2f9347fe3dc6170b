package control_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
)

// model is what the life of some workspaces ought to be: who calls what, one
// after the other, and what comes of it.
type model struct {
	w     *world
	limit int // of running ones
	state map[dayfly.ID]dayfly.State
	snaps map[dayfly.ID]dayfly.ID // of which workspace
	ids   []dayfly.ID             // in order, as maps have none
	steps *int
}

func (m *model) running() int {
	n := 0
	for _, s := range m.state {
		if s == dayfly.Running {
			n++
		}
	}
	return n
}

func (m *model) pick(r *rapid.T) dayfly.ID {
	if len(m.ids) == 0 {
		r.Skip("none")
	}
	return rapid.SampledFrom(m.ids).Draw(r, "which")
}

func (m *model) made(ids ...dayfly.ID) {
	for _, id := range ids {
		m.state[id] = dayfly.Running
		m.ids = append(m.ids, id)
	}
}

// move is a verb as the model has it.
type move struct {
	from []dayfly.State
	same []dayfly.State // in these it does nothing, and says so
	node []dayfly.State // in these the node refuses it, if there is room at all
	to   dayfly.State
	do   func(*control.Control) func(context.Context, dayfly.ID) (dayfly.Workspace, error)
}

var moves = map[string]move{
	"start": {
		from: []dayfly.State{dayfly.Stopped, dayfly.Failed, dayfly.Paused}, to: dayfly.Running,
		do: func(c *control.Control) func(context.Context, dayfly.ID) (dayfly.Workspace, error) { return c.Start },
	},
	"restart": {
		from: []dayfly.State{dayfly.Running, dayfly.Stopped, dayfly.Failed, dayfly.Paused}, to: dayfly.Running,
		do: func(c *control.Control) func(context.Context, dayfly.ID) (dayfly.Workspace, error) { return c.Restart },
	},
	"resume": {
		from: []dayfly.State{dayfly.Paused, dayfly.Failed}, node: []dayfly.State{dayfly.Failed}, to: dayfly.Running,
		do: func(c *control.Control) func(context.Context, dayfly.ID) (dayfly.Workspace, error) { return c.Resume },
	},
	"pause": {
		from: []dayfly.State{dayfly.Running}, same: []dayfly.State{dayfly.Paused}, to: dayfly.Paused,
		do: func(c *control.Control) func(context.Context, dayfly.ID) (dayfly.Workspace, error) { return c.Pause },
	},
	"stop": {
		from: []dayfly.State{dayfly.Running, dayfly.Paused, dayfly.Failed}, same: []dayfly.State{dayfly.Stopped}, to: dayfly.Stopped,
		do: func(c *control.Control) func(context.Context, dayfly.ID) (dayfly.Workspace, error) { return c.Stop },
	},
}

func (m *model) move(r *rapid.T, verb string) {
	mv, id := moves[verb], m.pick(r)
	was := m.state[id]
	ws, err := mv.do(m.w.Control)(in("team"), id)
	var want dayfly.Kind
	switch {
	case slices.Contains(mv.same, was):
	case !slices.Contains(mv.from, was):
		want = dayfly.Conflict
	case mv.to == dayfly.Running && was != dayfly.Running && m.running() >= m.limit:
		want = dayfly.Exhausted
	case slices.Contains(mv.node, was):
		want = dayfly.Conflict
	}
	if dayfly.KindOf(err) != want {
		r.Fatalf("%s of one that is %s: %v, want %q", verb, was, err, want)
	}
	if want == "" {
		m.state[id] = mv.to
		if ws.State != mv.to {
			r.Fatalf("%s of one that is %s: it is %s", verb, was, ws.State)
		}
	}
}

func (m *model) create(r *rapid.T) {
	if len(m.ids) > 8 {
		r.Skip("enough")
	}
	o := dayfly.CreateOptions{Wait: rapid.SampledFrom([]dayfly.Wait{"", dayfly.WaitCreated}).Draw(r, "wait")}
	ws, err := m.w.Create(in("team"), base, o)
	if m.running() >= m.limit {
		if dayfly.KindOf(err) != dayfly.Exhausted {
			r.Fatalf("create over the limit: %v", err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	m.w.until(ws.ID, dayfly.Running)
	m.made(ws.ID)
}

func (m *model) fork(r *rapid.T) {
	id, count := m.pick(r), rapid.IntRange(1, 2).Draw(r, "count")
	list, err := m.w.Fork(in("team"), id, count)
	var want dayfly.Kind
	switch {
	case m.state[id] != dayfly.Running:
		want = dayfly.Conflict
	case m.running()+count > m.limit:
		want = dayfly.Exhausted
	}
	if dayfly.KindOf(err) != want || want == "" && len(list) != count {
		r.Fatalf("fork of one that is %s: %v, want %q", m.state[id], err, want)
	}
	for _, ws := range list {
		m.made(ws.ID)
	}
}

func (m *model) remove(r *rapid.T) {
	id := m.pick(r)
	if err := m.w.Delete(in("team"), id); err != nil {
		r.Fatal(err)
	}
	delete(m.state, id)
	m.ids = slices.DeleteFunc(m.ids, func(one dayfly.ID) bool { return one == id })
	if _, err := m.w.Get(in("team"), id); dayfly.KindOf(err) != dayfly.NotFound {
		r.Fatalf("one that is deleted: %v", err)
	}
}

func (m *model) die(r *rapid.T) {
	id := m.pick(r)
	if m.state[id] != dayfly.Running {
		r.Skip("no machine")
	}
	m.w.node.die(m.w.t, id)
	m.state[id] = dayfly.Failed
	m.w.until(id, dayfly.Failed)
	for m.w.stored(id).State != dayfly.Failed { // which nobody has waited for
		<-time.After(time.Millisecond)
	}
}

func (m *model) snapshot(r *rapid.T) {
	id := m.pick(r)
	sn, err := m.w.Snapshot(in("team"), id, "")
	if m.state[id] != dayfly.Running {
		if dayfly.KindOf(err) != dayfly.Conflict {
			r.Fatalf("snapshot of one that is %s: %v", m.state[id], err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	m.snaps[id] = sn.ID
}

func (m *model) rollback(r *rapid.T) {
	id := m.pick(r)
	sn, ok := m.snaps[id]
	if !ok {
		r.Skip("no snapshot of it")
	}
	_, err := m.w.Rollback(in("team"), id, string(sn))
	if m.state[id] != dayfly.Running && m.running() >= m.limit {
		if dayfly.KindOf(err) != dayfly.Exhausted {
			r.Fatalf("rollback over the limit: %v", err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	m.state[id] = dayfly.Running
}

// check holds world and model together after each step.
func (m *model) check(r *rapid.T) {
	*m.steps++
	page, err := m.w.List(in("team"), dayfly.Query{Limit: dayfly.MaxPage})
	if err != nil {
		r.Fatal(err)
	}
	if len(page.Workspaces) != len(m.state) {
		r.Fatalf("%d are listed, there are %d", len(page.Workspaces), len(m.state))
	}
	for _, ws := range page.Workspaces {
		if ws.State != m.state[ws.ID] && m.w.until(ws.ID, m.state[ws.ID]).State != m.state[ws.ID] {
			r.Fatalf("%s is %s, not %s", ws.ID, ws.State, m.state[ws.ID])
		}
	}
	q, err := m.w.Quota(in("team"), "team")
	if err != nil || q.Used.Workspaces != len(m.state) {
		r.Fatalf("%+v, %v", q, err)
	}
	if n := len(m.w.node.ids()); n != len(m.state) {
		r.Fatalf("the node has %d, there are %d", n, len(m.state))
	}
}

func TestLifeIsWhatTheModelSays(t *testing.T) {
	t.Parallel()
	steps := 0
	w := newWorld(t)
	const limit = 4
	w.namespace("team", dayfly.Limits{Running: limit})
	rapid.Check(t, func(r *rapid.T) {
		m := &model{w: w, limit: limit, state: map[dayfly.ID]dayfly.State{}, snaps: map[dayfly.ID]dayfly.ID{}, steps: &steps}
		actions := map[string]func(*rapid.T){
			"create": m.create, "fork": m.fork, "delete": m.remove, "die": m.die, "snapshot": m.snapshot, "rollback": m.rollback,
			"reopen": func(*rapid.T) { w.reopen() },
			"":       m.check,
		}
		for verb := range moves {
			actions[verb] = func(r *rapid.T) { m.move(r, verb) }
		}
		r.Cleanup(func() {
			for _, id := range w.node.ids() {
				if err := w.Delete(in("team"), id); err != nil {
					t.Error(err)
				}
			}
		})
		r.Repeat(actions)
	})
	t.Logf("%d steps", steps)
}
