package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// takeover is the taking over of a workspace that runs, though the process that
// ran it has died, or has let go of it.
type takeover struct {
	w     *workspace
	ws    dayfly.Workspace
	parts parts
	back  undo.Stack
	ended string // how the machine ended by itself, if it did
}

// handover is what a takeover consists of. Whatever its last owner was doing is
// taken back: what was done to the end, the record says. A workspace for which
// one of the rows fails is failed, and its machine ends.
var handover = []struct {
	name string
	do   func(*takeover, context.Context) error
}{
	{"vmm", (*takeover).machine},
	{"disk", (*takeover).disk},
	{"pauses", (*takeover).pauses},
	{"image", (*takeover).image},
	{"go on", (*takeover).goOn},
	{"hello", (*takeover).hello},
	{"thaw", (*takeover).thaw},
}

const (
	// takeoverDeadline is how long one workspace may take that does not answer.
	takeoverDeadline = 30 * time.Second
	// takeoversAtOnce bounds how many machines are spoken to at the same time.
	takeoversAtOnce = 32
)

// leftBy says how the last owner left the workspace.
func (w *workspace) leftBy(r record) {
	w.outlives = w.outlives || r.Outlives
	if r.Workspace.State == dayfly.Running && r.Machine != nil {
		w.found = &r
	}
}

// takeOverAll makes this process the owner of the workspaces, and returns when
// all have answered, or have failed.
func (n *Node) takeOverAll(found []*workspace) {
	slots := make(chan struct{}, takeoversAtOnce)
	var wg sync.WaitGroup
	for _, w := range found {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := n.adopt(w); err != nil {
				w.lock.release()
				return
			}
			// The owner serves this when it has taken over.
			if _, err := w.ask(context.Background(), request{verb: verbNothing}); err != nil {
				n.Log.Error("takeover", "workspace", w.id, "err", err)
			}
		})
	}
	wg.Wait()
}

// takeOver makes the machine that was found this process's own. It is the
// owner's first work.
func (w *workspace) takeOver() {
	r := w.found
	w.found = nil
	ctx, cancel := context.WithTimeoutCause(context.Background(), takeoverDeadline,
		dayfly.Errorf(dayfly.Unavailable, "it did not answer within %s", takeoverDeadline))
	defer cancel()
	t := &takeover{w: w, ws: r.Workspace, parts: parts{made: *r.Machine, orphan: true}}
	err := t.run(ctx)
	if err == nil {
		w.parts = t.parts
		w.machine.Store(&t.parts.machine)
		w.session.Store(t.parts.session)
		w.node.Log.Info("workspace taken over", "workspace", w.id)
		w.mergeAfterStart()
	} else {
		w.lose(err, t.ended)
	}
	if r.Stopping {
		if err := w.stop(context.Background()); err != nil {
			w.node.Log.Error("stop that another process began", "workspace", w.id, "err", err)
		}
	}
}

func (t *takeover) run(ctx context.Context) error {
	for _, row := range handover {
		if err := row.do(t, ctx); err != nil {
			t.lookAtEnd()
			if undone := t.back.Run(ctx); undone != nil {
				t.w.node.Log.Error("undo of a takeover", "workspace", t.w.id, "stage", row.name, "err", undone)
			}
			return staged(row.name, err)
		}
	}
	t.back.Keep()
	return nil
}

// lookAtEnd notes how the machine ended, if that is what is wrong with it.
func (t *takeover) lookAtEnd() {
	if t.parts.machine == nil {
		return
	}
	select {
	case <-t.parts.machine.Done():
		t.ended = endReason(t.parts.machine)
	default:
	}
}

// lose makes a workspace failed that could not be taken over.
func (w *workspace) lose(err error, ended string) {
	reason := "it could not be taken over from the process that ran it: " + gist(err)
	switch {
	case ended != "":
		reason = ended
	case dayfly.KindOf(err) == dayfly.NotFound:
		reason = "its machine ended while no process owned it"
	}
	w.node.Log.Warn("workspace lost", "workspace", w.id, "err", err)
	var errs []error
	if w.node.KillOrphans != nil { // one that does not answer runs still
		errs = append(errs, w.node.KillOrphans(context.Background(), w.dir))
	}
	if w.node.cells != nil {
		errs = append(errs, w.node.cells.Sweep(context.Background()))
	}
	errs = append(errs, snapshot.Sweep(filepath.Join(w.dir, pausesDir)),
		w.become(dayfly.Failed, func(ws *dayfly.Workspace) { ws.Reason = reason }))
	if err := errors.Join(errs...); err != nil {
		w.node.Log.Error("record of a lost workspace", "workspace", w.id, "err", err)
	}
}

func (t *takeover) machine(ctx context.Context) error {
	m, err := t.w.node.driverOf(t.parts.made.VMM).Adopt(ctx, vmm.Config{
		ID: string(t.w.id), Dir: t.w.dir, Accel: t.ws.Accel, CPUs: t.parts.made.CPUs, MemoryMiB: t.parts.made.MemoryMiB,
		Drives: []vmm.Drive{readable: {ReadOnly: true}, writable: {}}, Orphan: true, Spawner: t.w.node.spawner(),
	})
	if err != nil {
		return err
	}
	t.back.Push("vmm", func(context.Context) error { return m.Close() })
	t.parts.machine = m
	return nil
}

// pauses removes the pause that was not finished: one that has the layer which
// the machine writes to.
func (t *takeover) pauses(ctx context.Context) error {
	if err := snapshot.Sweep(filepath.Join(t.w.dir, pausesDir)); err != nil {
		return err
	}
	has, err := t.parts.machine.Drive(ctx, writable)
	if err != nil {
		return err
	}
	numbers, err := t.w.pauses()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		dir := filepath.Join(t.w.dir, pausesDir, strconv.Itoa(n))
		files, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("node: pauses: %w", err)
		}
		for _, f := range files {
			if sameFile(filepath.Join(dir, f.Name()), has.Path) {
				if err := snapshot.Remove(dir); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// image leases the root again. One that was removed while nobody had it is no
// reason to end what runs from it.
func (t *takeover) image(ctx context.Context) error {
	lease, err := t.w.node.Images.Lease(ctx, t.ws.Image.Digest)
	if dayfly.KindOf(err) == dayfly.NotFound {
		t.w.node.Log.Warn("image of a running workspace is gone", "workspace", t.w.id, "image", t.ws.Image.Digest)
		return nil
	}
	if err != nil {
		return err
	}
	t.back.Push("image", func(context.Context) error { return lease.Close() })
	t.parts.lease = lease
	return nil
}

// goOn lets the CPUs go on that a pause or a photo had stopped.
func (t *takeover) goOn(ctx context.Context) error {
	err := t.parts.machine.Resume(ctx)
	if err != nil {
		return whyEnded(ctx, t.parts.machine, err)
	}
	return nil
}

func (t *takeover) hello(ctx context.Context) error {
	session, err := meet(ctx, t.parts.machine, min(takeoverDeadline, t.w.node.BootDeadline))
	if err != nil {
		return err
	}
	t.back.Push("session", func(context.Context) error { return session.Close() })
	t.parts.session = session
	return nil
}

// thaw lets the processes go on; it changes nothing where they do.
func (t *takeover) thaw(ctx context.Context) error { return thaw(ctx, t.parts.session) }

// letGo leaves the workspace running, for another process to take over.
func (w *workspace) letGo() error {
	w.endMerge()
	p := w.parts
	w.session.Store(nil)
	_ = p.session.Close() // its other end may be gone, which is no fault
	err := p.machine.Detach()
	if dayfly.KindOf(err) == dayfly.Conflict { // it ended just now
		w.machineEnded()
		return nil
	}
	w.parts = parts{}
	var errs []error
	if p.lease != nil {
		errs = append(errs, p.lease.Close())
	}
	if p.memory != nil {
		errs = append(errs, p.memory.Close())
	}
	w.node.Log.Info("workspace let go of", "workspace", w.id)
	return errors.Join(append(errs, err)...)
}
