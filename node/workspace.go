package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/vmm"
)

// workspace is one workspace of this process. Its owner goroutine, run, alone
// touches the fields below "owner"; everyone else reads view and session.
type workspace struct {
	id    dayfly.ID
	node  *Node
	dir   string
	queue chan request
	gone  chan struct{} // closed when the owner has ended

	view    atomic.Pointer[dayfly.Workspace]
	machine atomic.Pointer[vmm.Machine] // the last it had here; it may have ended
	session atomic.Pointer[guest.Session]
	cancel  atomic.Pointer[context.CancelCauseFunc] // ends the start under way

	// owner
	lock     *lock
	behind   sync.WaitGroup // work that nobody waits for
	unverify func()         // ends the part of it that compares disks, or nil
	damaged  chan error     // what that part found
	spare    *spare         // a machine that its start is to claim
	outlives bool           // see record
	hungUp   bool           // its machine's channel has ended, as it was saved: see rejoin
	found    *record        // of a running one whose owner died, or let go of it: it is to be taken over
	merging  *merging       // of its disk's layers, or nil
	parts    parts
	expires  <-chan time.Time
}

// parts are what a running workspace consists of besides its directory.
type parts struct {
	lease   *image.Lease
	memory  *os.File // what the machine's RAM began as, or nil
	machine vmm.Machine
	cell    *cell.Cell // what it lives in; nil: in no jail, or another process put it there
	session *guest.Session
	made    snapshot.Machine // what a copy of the machine's state depends on
	orphan  bool             // the machine outlives this process
}

type verb string

const (
	verbStart   verb = "start"  // from request.from, or what there is
	verbResume  verb = "resume" // of a pause
	verbPause   verb = "pause"
	verbPhoto   verb = "photo"    // into request.photo
	verbBack    verb = "rollback" // to request.from; nil: the pause before the last
	verbStop    verb = "stop"
	verbUpdate  verb = "update" // to request.spec
	verbNothing verb = "nothing"
	verbDelete  verb = "delete"
	verbRelease verb = "release" // the process ends: let go of the workspace
)

type request struct {
	verb  verb
	ctx   context.Context //nolint:containedctx // a queued call carries its caller's context to the owner
	clock clock
	reply chan error

	from  *origin
	photo **photo
	spec  dayfly.Spec
}

func newWorkspace(n *Node, l *lock, ws dayfly.Workspace) *workspace {
	w := &workspace{
		id: ws.ID, node: n, lock: l,
		dir:   workspaceDir(n.Dir, ws.ID),
		queue: make(chan request),
		gone:  make(chan struct{}),

		damaged: make(chan error, 1),
	}
	w.outlives = n.Outlive
	w.view.Store(&ws)
	return w
}

// record is what is to be kept of the workspace as ws.
func (w *workspace) record(ws dayfly.Workspace) record {
	r := record{Workspace: ws, Outlives: w.outlives}
	if ws.State == dayfly.Running && w.parts.orphan {
		made := w.parts.made
		r.Machine = &made
	}
	return r
}

// show lets everyone see ws. It is the owner's alone, so that changes are told
// in their order.
func (w *workspace) show(ws dayfly.Workspace) {
	w.view.Store(&ws)
	if w.node.Changed != nil {
		w.node.Changed(ws)
	}
}

// ask puts a request to the owner and waits for its answer. Cancelling ctx
// cancels the work; the answer is still awaited, since it says that what was
// begun has been undone.
func (w *workspace) ask(ctx context.Context, r request) (dayfly.Workspace, error) {
	r.ctx, r.reply = ctx, make(chan error, 1)
	if r.verb == verbDelete || r.verb == verbRelease {
		w.interrupt()
	}
	select {
	case w.queue <- r:
		err := <-r.reply
		ws := *w.view.Load()
		if ws.State == dayfly.Deleted {
			<-w.gone
		}
		return ws, err
	case <-w.gone:
		return dayfly.Workspace{}, dayfly.Errorf(dayfly.NotFound, "workspace %s is deleted", w.id)
	case <-ctx.Done():
		return dayfly.Workspace{}, staged("queue", context.Cause(ctx))
	}
}

// first asks for the start of a new workspace. One that fails, or that nobody
// waited for, leaves no owner behind.
func (w *workspace) first(ctx context.Context, r request) (dayfly.Workspace, error) {
	ws, err := w.ask(ctx, r)
	if err == nil {
		return ws, nil
	}
	select {
	case <-w.gone:
		return dayfly.Workspace{}, err
	default:
	}
	_, left := w.ask(context.WithoutCancel(ctx), request{verb: verbDelete})
	if dayfly.KindOf(left) == dayfly.NotFound {
		left = nil
	}
	return dayfly.Workspace{}, errors.Join(err, left)
}

// interrupt ends a start under way, so that a delete need not wait for it.
func (w *workspace) interrupt() {
	if cancel := w.cancel.Load(); cancel != nil {
		(*cancel)(dayfly.Errorf(dayfly.Conflict, "the workspace was deleted while it started"))
	}
}

// run is the owner: it ends when the workspace is deleted or let go of.
func (w *workspace) run() {
	defer close(w.gone)
	defer w.lock.release()
	defer w.abandon()
	defer w.node.disown(w.id)
	if w.found != nil {
		w.takeOver()
	}
	for {
		var ended <-chan struct{}
		if w.parts.machine != nil {
			ended = w.parts.machine.Done()
		}
		select {
		case r := <-w.queue:
			err := w.serve(r)
			last := w.state() == dayfly.Deleted || r.verb == verbRelease
			r.reply <- err
			if last {
				return
			}
		case <-ended:
			w.machineEnded()
		case err := <-w.damaged:
			w.condemn(err)
		case <-w.merging.ended():
			w.endMerge()
		case <-w.expires:
			w.expire()
			if w.state() == dayfly.Deleted {
				return
			}
		}
	}
}

// expire does what is to be done when the workspace's time is over.
func (w *workspace) expire() {
	w.expires = nil
	action, do := w.view.Load().Spec.AtTimeout(), w.delete
	switch action {
	case dayfly.StopIt:
		do = w.stop
	case dayfly.PauseIt:
		do = w.pause
	}
	w.node.Log.Info("workspace expired", "workspace", w.id, "action", action)
	if err := do(context.Background()); err != nil {
		w.node.Log.Error("end of an expired workspace", "workspace", w.id, "err", err)
	}
}

func (w *workspace) serve(r request) error {
	switch r.verb {
	case verbStart:
		if w.state() == dayfly.Paused {
			return w.resume(r.ctx, r.clock)
		}
		return w.start(r.ctx, r.clock, r.from)
	case verbResume:
		return w.resume(r.ctx, r.clock)
	case verbPause:
		return w.pause(r.ctx)
	case verbPhoto:
		p, err := w.photograph(r.ctx)
		*r.photo = p
		return err
	case verbBack:
		if r.from == nil {
			return w.previous(r.ctx, r.clock)
		}
		return w.rollback(r.ctx, r.clock, r.from)
	case verbStop:
		return w.stop(r.ctx)
	case verbUpdate:
		return w.update(r.spec)
	case verbNothing:
		return nil
	case verbDelete:
		return w.delete(r.ctx)
	case verbRelease:
		return w.release(r.ctx)
	}
	return fmt.Errorf("node: no such request: %s", r.verb)
}

func (w *workspace) state() dayfly.State { return w.view.Load().State }

// become changes the state, if the life cycle allows it, and what else change
// says, and keeps the record. If that cannot be written nothing changes, but that what
// has no machine any more is failed: so will the next process find it.
func (w *workspace) become(s dayfly.State, change func(*dayfly.Workspace)) error {
	ws := *w.view.Load()
	if ws.State != s {
		if err := ws.State.To(s); err != nil {
			return err
		}
	}
	if ws.State == dayfly.Running {
		if err := dropChain(w.dir); err != nil { // which would be taken for this one's disk
			return fmt.Errorf("node: disk: %w", err)
		}
	}
	ws.State = s
	if change != nil {
		change(&ws)
	}
	if s != dayfly.Deleted {
		was := *w.view.Load()
		gone := was.State == dayfly.Running && w.parts.machine == nil
		if gone {
			was.State, was.Reason = dayfly.Failed, "its machine has ended, which could not be recorded"
		}
		if err := w.record(ws).replace(w.dir, w.record(was)); err != nil {
			if gone {
				was.Reason += ": " + firstLine(err)
				w.show(was)
			}
			return fmt.Errorf("node: record: %w", noSpace(err))
		}
	}
	w.show(ws)
	w.node.Log.Info("workspace state", "workspace", w.id, "state", s, "reason", ws.Reason)
	return nil
}

// machineEnded notes that the machine went away by itself.
func (w *workspace) machineEnded() {
	reason := endReason(w.parts.machine)
	if err := w.teardown(); err != nil {
		w.node.Log.Error("tear-down after the machine ended", "workspace", w.id, "err", err)
	}
	w.fail(reason)
}

// fail makes a workspace whose machine is gone a failed one.
func (w *workspace) fail(reason string) {
	if err := w.become(dayfly.Failed, func(ws *dayfly.Workspace) { ws.Reason = reason }); err != nil {
		w.node.Log.Error("record of a failed workspace", "workspace", w.id, "err", err)
	}
}

// endReason says how a machine ended, with the guest's last words quoted.
func endReason(m vmm.Machine) string {
	var what string
	exit := m.Exit()
	switch exit.Cause {
	case vmm.PowerOff:
		what = "the guest powered itself off"
	case vmm.Panic:
		what = "the guest's kernel panicked"
	case vmm.Crash:
		what = "the VMM process ended"
		if exit.Err != nil {
			what += ": " + exit.Err.Error()
		}
	default:
		what = "the machine was closed"
	}
	if tail := consoleTail(m); tail != "" {
		what += "; " + consoleHead + "\n" + tail
	}
	return what
}

// teardown lets go of the running parts, in the order opposite to the start.
func (w *workspace) teardown() error {
	p := w.parts
	w.parts, w.expires, w.hungUp = parts{}, nil, false
	w.session.Store(nil)
	var errs []error
	if p.session != nil {
		_ = p.session.Close() // its other end may be gone, which is no fault
	}
	if p.machine != nil {
		errs = append(errs, p.machine.Close())
	}
	w.endMerge() // which ends with the machine
	if p.lease != nil {
		errs = append(errs, p.lease.Close())
	}
	if p.memory != nil {
		errs = append(errs, p.memory.Close())
	}
	return errors.Join(errs...)
}

// stopDeadline is how long a guest gets to end its processes and write its
// disk out before its machine is closed.
const stopDeadline = 30 * time.Second

// stop powers the guest off and keeps the disk and its key, durably.
func (w *workspace) stop(ctx context.Context) error {
	state := w.state()
	if state == dayfly.Stopped {
		return nil
	}
	if err := state.To(dayfly.Stopped); err != nil {
		return err
	}
	if w.parts.orphan { // another process may have to see it through
		was := w.record(*w.view.Load())
		r := was
		r.Stopping = true
		if err := r.replace(w.dir, was); err != nil {
			return noSpace(err)
		}
	}
	clean := w.parts.machine == nil || w.powerOff(ctx)
	if err := errors.Join(w.teardown(), syncAll(w.dir)); err != nil {
		if state == dayfly.Running {
			w.fail("its stop was not finished, so it may lack what was written last: " + firstLine(err))
		}
		return staged("stop", err)
	}
	reason := ""
	if !clean {
		reason = fmt.Sprintf("the guest did not power off within %s and was cut off: its disk is as after a power failure", stopDeadline)
	}
	if state == dayfly.Paused {
		reason = "its memory was dropped: its disk is as after a power failure"
	}
	if err := w.become(dayfly.Stopped, func(ws *dayfly.Workspace) {
		ws.Reason, ws.Spec.Keep = reason, true // whoever stops a workspace wants its disk
	}); err != nil {
		return err
	}
	var tidy error // the rest goes with the next stop
	if clean && state == dayfly.Running {
		if err := os.Remove(filepath.Join(w.dir, formerFile)); !errors.Is(err, fs.ErrNotExist) {
			tidy = err
		}
	}
	if err := errors.Join(tidy, w.dropPauses(math.MaxInt)); err != nil {
		w.node.Log.Error("removal of what a stopped workspace does not need", "workspace", w.id, "err", err)
	}
	return nil
}

// powerOff reports whether the guest shut down by itself in time.
func (w *workspace) powerOff(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stopDeadline)
	defer cancel()
	err := w.rejoin(ctx)
	if err == nil {
		err = w.parts.session.Poweroff(ctx)
	}
	if err != nil {
		w.node.Log.Warn("power-off", "workspace", w.id, "err", err)
		return false
	}
	select {
	case <-w.parts.machine.Done():
		return true
	case <-ctx.Done():
		return false
	}
}

// delete leaves nothing: the machine ends, the key is forgotten, which makes
// the disk unreadable, and the disk and the directory go. It works in every
// state and may be repeated after an error.
func (w *workspace) delete(context.Context) error {
	w.abandon()
	var spare error
	if w.spare != nil { // its start never began
		spare, w.spare = w.spare.end(), nil
	}
	err := errors.Join(
		spare,
		w.teardown(),
		w.node.Keys.Forget(filepath.Join(w.dir, keyFile)),
		disk.Wipe(filepath.Join(w.dir, diskFile)),
	)
	if err != nil {
		return fmt.Errorf("node: delete %s: %w", w.id, err)
	}
	if err := removeHome(w.dir); err != nil {
		return err
	}
	return w.become(dayfly.Deleted, nil)
}

// release lets go of a workspace as the process ends: a machine that outlives it
// runs on; otherwise what is to be kept is stopped, and the rest deleted.
func (w *workspace) release(ctx context.Context) error {
	ws := w.view.Load()
	keep := ws.Spec.Keep || w.outlives
	switch {
	case ws.State == dayfly.Deleted:
		return nil
	case ws.State == dayfly.Running && w.parts.orphan:
		return w.letGo()
	case ws.State == dayfly.Running && keep:
		return w.stop(ctx)
	case ws.State == dayfly.Stopped, ws.State == dayfly.Paused, ws.State == dayfly.Failed && keep:
		return w.teardown()
	}
	return w.delete(ctx)
}

// close asks the owner to let go and waits until it has.
func (w *workspace) close() error {
	_, err := w.ask(context.Background(), request{verb: verbRelease})
	<-w.gone
	if dayfly.KindOf(err) == dayfly.NotFound {
		return nil
	}
	return err
}
