// Package node runs workspaces on one host: it works through the startup
// table, owns what runs, and clears away what a crashed predecessor left.
//
// Each workspace has one owner goroutine, which alone changes its state and
// takes requests from a queue; and one owner process, which holds a lock on it
// for as long as it lives. Several processes may share a state directory: each
// sees all records and changes only its own. Machines of an owner with Outlive
// run on when it ends or dies, and the next one takes them over. Always true: a
// start that fails leaves nothing behind; a workspace whose owner died is taken
// over or swept by the next process that opens the directory; a kept disk is
// never swept.
//
// Under Dir:
//
//	workspaces/ID/   record.json, disk, key, and the VMM's sockets
//	locks/ID         flock held by the owner; it outlives the directory
//	seeds/           empty file systems, one per disk size
//	kvm.json         whether a guest was proved to run on KVM
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/template"
	"github.com/dayfly/dayfly/vmm"
)

// Config is what a node is made of.
type Config struct {
	Dir     string
	Images  Images
	Kernels Kernels
	Keys    Keys
	Driver  vmm.Driver // of new machines
	Log     *slog.Logger

	// Others are drivers of what there may be that Driver has not made: such
	// machines and memories go on with theirs. With Fallback they make new ones,
	// too, where Driver cannot: on this host, by the accelerator that is asked for,
	// or with the disk that there is.
	Others   []vmm.Driver
	Fallback bool

	// Standby machines are held ready for starts. Default: none.
	Standby Standby

	// BootDeadline is how long a guest's agent gets to answer; default 90 s,
	// which allows for software emulation on a busy host.
	BootDeadline time.Duration

	// KillOrphans ends the VMMs that run below a directory whose owner died, and
	// Orphans lists their processes. Nil: the driver leaves none.
	KillOrphans func(ctx context.Context, dir string) error
	Orphans     func(ctx context.Context, dir string) ([]int, error)

	// Outlive lets machines outlive this process. Close lets go of workspaces
	// that run, and Open takes over those that an earlier process let go of, or
	// left when it died; one whose machine has ended meanwhile is failed, and
	// stays so until it is deleted. Timers are then the caller's: the time-outs
	// of specs are not looked at.
	Outlive bool

	// Jail is how machines are jailed, each in one of its own. Nil: they have the
	// rights of this process, and no limits but those of their guest.
	Jail *jail.Options

	// IO bounds what each machine may read and write. Its VMM keeps the bounds of the
	// disk; the rest, and a VMM that was taken over, the jail does where it can.
	IO IO

	// MergeAbove is how many layers the disk of a running workspace may have before
	// they are merged, at least 2; default 16.
	MergeAbove int

	// Changed is told of every change of a workspace, in order, by its owner: it
	// must return soon and ask nothing of that workspace. Nil: nobody is told.
	Changed func(dayfly.Workspace)
}

// Images hands out root file systems.
type Images interface {
	Lease(ctx context.Context, name string) (*image.Lease, error)
}

// Kernels hands out guest kernels; the empty id means the preferred one.
type Kernels interface {
	Boot(ctx context.Context, id string) (kernel.Boot, error)
}

// Keys keeps the keys of disks, wrapped, in files.
type Keys interface {
	Create(ctx context.Context, path, context string) (*keyring.Key, error)
	Load(ctx context.Context, path, context string) (*keyring.Key, error)
	Adopt(ctx context.Context, path, context string, key *keyring.Key) error
	Forget(path string) error
}

// Node is the workspaces of this process on this host. Its methods may be
// called at the same time.
type Node struct {
	Config
	kvm       *verdict
	templates *template.Store
	standby   *pool
	cells     *cell.Block // nil: machines live in no jails

	mu     sync.Mutex
	own    map[dayfly.ID]*workspace
	closed bool
}

// Open sweeps what dead owners left under c.Dir and returns a node.
func Open(ctx context.Context, c Config) (*Node, error) {
	for _, d := range []string{"workspaces", "locks", "seeds", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
	}
	if err := syncPath(c.Dir); err != nil {
		return nil, err
	}
	if c.BootDeadline == 0 {
		c.BootDeadline = bootDeadline
	}
	if c.MergeAbove == 0 {
		c.MergeAbove = mergeAbove
	}
	c.MergeAbove = min(max(c.MergeAbove, 2), urgentLayers)
	n := &Node{Config: c, own: map[dayfly.ID]*workspace{}}
	n.kvm = &verdict{path: n.kvmFile, log: c.Log, prove: n.proveKVM}
	templates, err := template.Open(filepath.Join(c.Dir, "templates"), template.Limits{})
	if err != nil {
		return nil, err
	}
	n.templates = templates
	if err := n.openCells(ctx); err != nil { // which ends machines that are not there yet
		return nil, err
	}
	found, err := n.sweep(ctx)
	err = errors.Join(err, n.sweepSnapshots(ctx))
	if err == nil && n.cells != nil {
		err = n.cells.Sweep(ctx) // of machines that nobody is to have
	}
	if err != nil {
		for _, w := range found {
			w.lock.release()
		}
		if n.cells != nil {
			err = errors.Join(err, n.cells.Close())
		}
		return nil, fmt.Errorf("node: sweep: %w", err)
	}
	n.takeOverAll(found)
	n.standby = newPool(n, c.Standby)
	return n, nil
}

// add makes the owner of a new workspace.
func (n *Node) add(ws dayfly.Workspace) (*workspace, error) {
	lock, err := lockNew(n.Dir, ws.ID)
	if err != nil {
		return nil, err
	}
	w := newWorkspace(n, lock, ws)
	if err := n.adopt(w); err != nil {
		lock.release()
		return nil, err
	}
	return w, nil
}

// adopt lists w as this process's own and sets its owner to work.
func (n *Node) adopt(w *workspace) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return dayfly.Errorf(dayfly.Unavailable, "the server is shutting down")
	}
	n.own[w.id] = w
	go w.run()
	return nil
}

func (n *Node) disown(id dayfly.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.own, id)
}

// Start starts a stopped or failed workspace from its disk.
func (n *Node) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	clock := newClock()
	w, err := n.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return w.ask(ctx, request{verb: verbStart, clock: clock})
}

// Stop ends a workspace's processes and machine in order and keeps its disk.
func (n *Node) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	w, err := n.find(ctx, id)
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return w.ask(ctx, request{verb: verbStop})
}

// Delete ends a workspace in any state and wipes its disk.
func (n *Node) Delete(ctx context.Context, id dayfly.ID) error {
	w, err := n.find(ctx, id)
	if err != nil {
		return err
	}
	_, err = w.ask(ctx, request{verb: verbDelete})
	return err
}

// find returns the owner of a workspace, taking it over if no process owns it.
func (n *Node) find(ctx context.Context, id dayfly.ID) (*workspace, error) {
	if w := n.owned(id); w != nil {
		return w, nil
	}
	if _, err := readRecord(n.Dir, id); err != nil {
		return nil, err
	}
	const patience = sweepTime / 4 // it may well have another owner
	var lock *lock
	err := flock.Within(ctx, patience, func() (err error) {
		if lock, err = lockWorkspace(n.Dir, id); err != nil && n.owned(id) != nil {
			return errInVain
		}
		return err
	})
	if w := n.owned(id); err != nil && w != nil { // another call of this process was first
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := readRecord(n.Dir, id) // once more: its owner may have changed it until it let go
	var w *workspace
	if err == nil {
		w = newWorkspace(n, lock, r.Workspace)
		w.leftBy(r)
		err = n.adopt(w)
	}
	if err != nil {
		lock.release()
		return nil, err
	}
	return w, nil
}

var errInVain = errors.New("node: this process has it")

// owned returns the workspace if it is this process's own, or nil.
func (n *Node) owned(id dayfly.ID) *workspace {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.own[id]
}

// Get returns a workspace, whichever process owns it.
func (n *Node) Get(_ context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	if w := n.owned(id); w != nil {
		return *w.view.Load(), nil
	}
	r, err := readRecord(n.Dir, id)
	return r.Workspace, err
}

// List returns all workspaces under the state directory, oldest first.
func (n *Node) List(ctx context.Context) ([]dayfly.Workspace, error) {
	dirs, err := os.ReadDir(filepath.Join(n.Dir, "workspaces"))
	if err != nil {
		return nil, fmt.Errorf("node: list: %w", err)
	}
	list := []dayfly.Workspace{}
	for _, d := range dirs {
		id, err := dayfly.ParseID(d.Name())
		if err != nil {
			continue
		}
		w, err := n.Get(ctx, id)
		if dayfly.KindOf(err) == dayfly.NotFound {
			continue // just made, or just deleted
		}
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b dayfly.Workspace) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return list, nil
}

// Dial opens a stream to a port inside a running workspace of this process.
func (n *Node) Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error) {
	n.mu.Lock()
	w := n.own[id]
	n.mu.Unlock()
	if w == nil {
		r, err := readRecord(n.Dir, id)
		if err != nil {
			return nil, err
		}
		return nil, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s here: start it first, or ask the server that runs it", id, r.Workspace.State)
	}
	s := w.session.Load()
	if s == nil {
		ws := w.view.Load()
		if ws.State == dayfly.Running {
			return nil, dayfly.Errorf(dayfly.Unavailable, "workspace %s is being copied, and its agent is not yet reached again: try again", id)
		}
		return nil, dayfly.Errorf(dayfly.Conflict, "workspace %s is %s%s", id, ws.State, because(ws.Reason))
	}
	return s.Dial(ctx, port)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// Close stops the running workspaces of this process that are to be kept,
// deletes the others, and waits until all their owners are done. With Outlive it
// lets go of what runs.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	own := make([]*workspace, 0, len(n.own))
	for _, w := range n.own {
		own = append(own, w)
	}
	n.mu.Unlock()
	errs := make([]error, len(own), len(own)+1)
	var wg sync.WaitGroup
	for i, w := range own {
		wg.Go(func() { errs[i] = w.close() })
	}
	wg.Wait()
	errs = append(errs, n.standby.close())
	if n.cells != nil {
		errs = append(errs, n.cells.Close())
	}
	return errors.Join(errs...)
}
