package node

import (
	"context"
	"errors"
	"os"

	"github.com/dayfly/dayfly"
)

// creation is a Create under way.
type creation struct {
	id    dayfly.ID
	given bool // the id: no standby machine has it
	spec  dayfly.Spec
	clock clock
	admit func(dayfly.Workspace) error // or nil
}

func (c creation) admitted(ws dayfly.Workspace) error {
	if c.admit == nil {
		return nil
	}
	return c.admit(ws)
}

// Create makes and starts a workspace. It returns once processes can be
// started in it, or leaves nothing behind. Cancelling ctx undoes the start.
func (n *Node) Create(ctx context.Context, spec dayfly.Spec) (dayfly.Workspace, error) {
	return n.CreateAdmitted(ctx, spec, nil)
}

// CreateAdmitted is a Create of which admit is told ahead of all else: the
// workspace to be, which is creating, and of which nothing is there but the id.
// An error of it ends the creation. Nil: no one is told.
func (n *Node) CreateAdmitted(ctx context.Context, spec dayfly.Spec, admit func(dayfly.Workspace) error) (dayfly.Workspace, error) {
	return n.create(ctx, creation{id: dayfly.NewID(), spec: spec, clock: newClock(), admit: admit})
}

// CreateAs is a Create of a workspace whose id is known already, as its making
// was cut off. It is a Conflict if there is one of that id.
func (n *Node) CreateAs(ctx context.Context, id dayfly.ID, spec dayfly.Spec) (dayfly.Workspace, error) {
	if _, err := dayfly.ParseID(string(id)); err != nil {
		return dayfly.Workspace{}, err
	}
	if _, err := os.Lstat(workspaceDir(n.Dir, id)); err == nil {
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.Conflict, "there is a workspace %s already", id)
	}
	return n.create(ctx, creation{id: id, given: true, spec: spec, clock: newClock()})
}

func (n *Node) create(ctx context.Context, c creation) (_ dayfly.Workspace, err error) {
	if c.spec, err = c.spec.Normal(); err != nil {
		return dayfly.Workspace{}, err
	}
	if c.spec.Snapshot != "" {
		return n.fromSnapshot(ctx, c)
	}
	n.standby.begin()
	defer n.standby.end()
	w, err := n.fresh(c)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	ws, err := w.first(ctx, request{verb: verbStart, clock: c.clock})
	if err == nil {
		n.standby.started(ws)
	}
	return ws, err
}

// fresh makes the owner of a new workspace, with a standby machine if one serves.
func (n *Node) fresh(c creation) (*workspace, error) {
	ws := dayfly.Workspace{ID: c.id, Name: c.spec.Name, State: dayfly.Creating, Spec: c.spec, CreatedAt: now()}
	var spare *spare
	if !c.given {
		spare = n.standby.take(c.spec)
	}
	if spare != nil {
		ws.ID = spare.home.id
	}
	if err := c.admitted(ws); err != nil {
		if spare != nil {
			err = errors.Join(err, n.standby.put(spare))
		}
		return nil, err
	}
	if spare == nil {
		return n.add(ws)
	}
	w := newWorkspace(n, spare.home.lock, ws)
	w.spare = spare
	if err := n.adopt(w); err != nil {
		return nil, errors.Join(err, spare.close())
	}
	return w, nil
}
