// Package cell puts the processes of machines into jails: it is the vmm.Spawner
// that node hands to drivers, made of what package jail offers.
//
// A Block is a host's jails, a Cell what one machine gets of them. Drivers know
// neither. Always true: a process that has ended leaves no jail; one that was
// left alone keeps its jail, and Adopt finds it again.
package cell

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/vmm"
)

// openFiles is how many descriptors a VMM may have: each of 64 layers of a disk
// takes three, and a set of them that is handed over one more.
const openFiles = 1024

// Block is the cells of a host. Its methods may be called at the same time.
type Block struct {
	pool *jail.Pool
	log  *slog.Logger
}

// Open takes the jails of this host over, and removes what dead owners left of
// them. Machines that still run keep theirs. Errors are those of jail.Open.
func Open(ctx context.Context, o jail.Options) (*Block, error) {
	pool, err := jail.Open(o)
	if err != nil {
		return nil, err
	}
	if err := pool.Sweep(ctx, nil); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Block{pool, o.Log}, nil
}

// Sweep removes what is left of the jails of machines that have ended since.
func (b *Block) Sweep(ctx context.Context) error { return b.pool.Sweep(ctx, nil) }

// Prepare has count jails wait for a program, from now on. It does not wait.
func (b *Block) Prepare(p vmm.Program, count int) { b.pool.Prepare(shape(p), count) }

// Waiting is how many jails wait to be taken.
func (b *Block) Waiting() int { return b.pool.Waiting() }

// Lacks reports whether this host offers no limits of a kind: cpu, io, memory or
// pids.
func (b *Block) Lacks(controller string) bool { return slices.Contains(b.pool.Lacks(), controller) }

// Traffic says what of a machine's traffic with the disk of path can be bounded.
func (b *Block) Traffic(path string) jail.Traffic { return b.pool.Traffic(path) }

// Close removes the jails that wait. Machines keep theirs.
func (b *Block) Close() error { return b.pool.Close() }

// Cell is for a machine with those limits, but for that of CPUs: a VMM that
// starts is not to be slowed down, so that one is set by Limit.
func (b *Block) Cell(l jail.Limits) *Cell {
	l.CPUs, l.OpenFiles = 0, openFiles
	return &Cell{block: b, limits: l}
}

func shape(p vmm.Program) jail.Shape {
	return jail.Shape{Program: p.Path, Data: p.Data, KVM: p.KVM}
}

// Cell is what one machine lives in, once its driver has spawned it. It is a
// vmm.Spawner.
type Cell struct {
	block   *Block
	limits  jail.Limits
	network *os.File

	mu   sync.Mutex // guards what follows
	jail *jail.Jail // of the process it spawned or adopted last
}

var _ vmm.Spawner = (*Cell)(nil)

// Connect has the TAP devices of the machine taken from a network namespace, which
// stays the caller's. A VMM that opens them by itself lives there, so that nothing
// else may. Without it they are taken from this process's.
func (c *Cell) Connect(network *os.File) *Cell {
	c.network = network
	return c
}

// Limit bounds a machine that runs, by what of l is not zero.
func (c *Cell) Limit(l jail.Limits) error {
	c.mu.Lock()
	j := c.jail
	c.mu.Unlock()
	if j == nil {
		return dayfly.Errorf(dayfly.Conflict, "the machine lives in no jail: it was started with the jail switched off")
	}
	return j.Limit(l)
}

// Spawn starts a VMM in a jail.
func (c *Cell) Spawn(ctx context.Context, cmd vmm.Command) (_ vmm.Process, err error) {
	spec := jail.Spec{
		Shape: shape(cmd.Program), Files: files(cmd.Paths), Limits: c.limits, Room: cmd.Room, Places: cmd.Places,
	}
	taps, err := c.taps(cmd, &spec)
	if err != nil {
		return nil, err
	}
	defer closeAll(taps) // the process has them then
	j, err := c.block.pool.Take(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	if err := c.give(cmd, j); err != nil {
		return nil, err
	}
	handed := append(slices.Clone(cmd.Files), taps...)
	if i := cmd.Reopened - firstFile; i >= 0 {
		lent, err := lend(j, handed[i])
		if err != nil {
			return nil, err
		}
		if lent != handed[i] {
			defer lent.Close() // the process has it then
		}
		handed[i] = lent
	}
	proc, err := j.Start(ctx, jail.Command{
		Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, Stdout: cmd.Out, Stderr: cmd.Err, Files: handed, Orphan: cmd.Orphan,
	})
	if err != nil {
		return nil, err
	}
	return c.keep(j, proc), nil
}

// firstFile is the first descriptor behind the standard ones.
const firstFile = 3

// lend opens a file again so that the jail's user may, or returns it where all
// may, as with memory that has no name.
func lend(j *jail.Jail, f *os.File) (*os.File, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const all = 0o006
	if fi.Mode().Perm()&all == all {
		return f, nil
	}
	return j.Lend(f)
}

// files are the paths as a jail takes them, each once.
func files(paths []vmm.Path) []jail.File {
	var list []jail.File
	for _, p := range paths {
		if i := slices.IndexFunc(list, func(f jail.File) bool { return f.Path == p.Name && f.To == p.As }); i >= 0 {
			list[i].Write = list[i].Write || p.Write
			continue
		}
		list = append(list, file(p))
	}
	return list
}

func file(p vmm.Path) jail.File { return jail.File{Path: p.Name, To: p.As, Write: p.Write, Own: true} }

// Adopt takes over the jail of a machine whose owner has died or let go of it.
func (c *Cell) Adopt(pid int) (vmm.Process, error) {
	j, err := c.block.pool.Adopt(pid)
	if err != nil {
		return nil, err
	}
	return c.keep(j, j.Process()), nil
}

func (c *Cell) keep(j *jail.Jail, proc *jail.Process) *process {
	c.mu.Lock()
	c.jail = j
	c.mu.Unlock()
	p := &process{jail: j, proc: proc, done: make(chan struct{}), left: make(chan struct{}), over: make(chan struct{})}
	go p.watch(c.block.log)
	return p
}
