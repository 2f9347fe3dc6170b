// Package jail is the box that a VMM process lives in, so that a guest that
// takes its VMM over has gained next to nothing.
//
//	Open ──► Pool ──► Prepare: a few jails wait, each with its first process
//	          │
//	          └─ Take ──► Jail ── Start ──► Process (the VMM itself, pid 1 of its namespace)
//	                       │                   │
//	                       └────── Close ◄─────┘   nothing of it is left
//
// A jail has a user of its own, new mount, pid, ipc, uts, network and cgroup
// namespaces, a read-only root that holds a program with its libraries and what
// else a Spec names, no capabilities, a seccomp filter, and limits where the
// host has control groups. It is set up by its first process, which is this
// very program under another name (see Enter), and which then becomes the VMM.
//
// What runs in it, and whose files it gets, is the caller's. Always true: a
// jail is used once; Start that fails leaves no process; Close may be called at
// any time, more than once; whatever a killed owner leaves is gone after Sweep,
// but for orphans that still run, which keep their user.
package jail

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// DefaultDir is where the users that jails have are kept account of. It is one
// for the whole host, however many state directories there are: two jails of
// one user could reach each other.
const DefaultDir = "/run/dayfly/jail"

// defaultGroup is the control group that those of jails lie in.
const defaultGroup = "dayfly"

// Range is a range of user ids, each also that of a group. Nobody else on the
// host may have one of them.
type Range struct{ First, Count int }

// DefaultRange is above what people, services and containers are usually given.
var DefaultRange = Range{First: 800000, Count: 65536}

// Options are how a Pool is opened. The zero value is good.
type Options struct {
	Dir    string       // "" is DefaultDir; it must be ours alone
	UIDs   Range        // zero is DefaultRange
	Cgroup string       // the name of the control group that those of the jails lie in; "" is "dayfly"
	Self   string       // the program that begins jails by calling Enter; "" is the running one
	Log    *slog.Logger // nil discards
}

// Shape is what of a jail is set up ahead of its use.
type Shape struct {
	Program string   // an ELF program's absolute path; it and its libraries are there, read-only
	Data    []string // files and directories that are there at the same path, read-only; what the host lacks is left out
	KVM     bool     // /dev/kvm is there
}

// Spec is a jail to take.
type Spec struct {
	Shape

	Files  []File
	Limits Limits
}

// File is a file or directory of the host that is in the jail at the same path.
// Nothing in it can be run.
type File struct {
	Path  string // absolute, and no symbolic link
	Write bool

	// Own lets the jail's user do what root may, with a file that is root's and
	// nobody else's to read or write. On the disk it stays root's, where the file
	// system can map users (Linux 5.12 for ext4 and XFS, 5.15 for Btrfs, 6.3 for
	// tmpfs). Elsewhere it is given away until Close, if it is to be written and
	// has one hard link, or the error is Unavailable.
	Own bool
}

// Limits bound what a jail may use. Zero is no limit. Those of control groups
// hold only where the host has the controller: see Pool.Lacks.
type Limits struct {
	CPUs      float64 // processors, or a fraction of one
	Memory    int64   // bytes, the VMM's own included; whoever needs more is killed alone
	Processes int     // threads, in all
	IO        []IO

	FileSize  int64 // bytes that a file may grow to
	OpenFiles int   // descriptors; zero is DefaultOpenFiles
}

// DefaultOpenFiles is enough for a VMM with drives and sockets.
const DefaultOpenFiles = 256

// DefaultProcesses bounds the threads of a jail that names no limit.
const DefaultProcesses = 256

// IO bounds the traffic with the device that the file system of Path is on, by
// second. Zero is no limit.
type IO struct {
	Path                  string
	ReadBytes, WriteBytes int64
	ReadOps, WriteOps     int64
}

// Pool makes jails and holds some ready. Its methods may be called at the same
// time.
type Pool struct {
	off  bool
	self string
	dir  string
	log  *slog.Logger
	ids  *ids
	tree *tree

	programs programs

	mu     sync.Mutex // guards what follows
	want   []ahead
	ready  []*Jail
	closed bool

	wake    chan struct{}
	closing context.CancelFunc
	filling sync.WaitGroup
}

// ahead is how many jails of a shape are to wait.
type ahead struct {
	shape Shape
	count int
}

// Open takes the directory and finds out what the host offers. Only root can:
// the error is Unavailable then, and Denied where the directory is not ours
// alone.
func Open(o Options) (*Pool, error) {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.UIDs == (Range{}) {
		o.UIDs = DefaultRange
	}
	if o.Cgroup == "" {
		o.Cgroup = defaultGroup
	}
	if o.Self == "" {
		o.Self = "/proc/self/exe"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := able(); err != nil {
		return nil, err
	}
	dir, err := openDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	p := &Pool{self: o.Self, dir: o.Dir, log: o.Log, wake: make(chan struct{}, 1)}
	if p.ids, err = openIDs(dir, o.UIDs); err != nil {
		return nil, err
	}
	if p.tree, err = plant(o.Cgroup); err != nil {
		return nil, errors.Join(err, p.ids.close())
	}
	if lacks := p.Lacks(); len(lacks) > 0 {
		p.log.Warn("jails have no limit of some kinds", "lacks", lacks)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.closing = cancel
	p.filling.Go(func() { p.fill(ctx) })
	return p, nil
}

// None is a pool whose jails have no walls at all, to measure what those cost.
func None(log *slog.Logger) *Pool {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log.Warn("jails are off: a guest that breaks out of its VMM has all rights of this process")
	return &Pool{off: true, log: log, wake: make(chan struct{}, 1), closing: func() {}}
}

// Lacks names the kinds of limit that this host offers no controller for.
func (p *Pool) Lacks() []string {
	if p.off {
		return append([]string(nil), controllers...)
	}
	return p.tree.lacks()
}

// Prepare has count jails of a shape wait from now on. It does not wait for
// them.
func (p *Pool) Prepare(s Shape, count int) {
	if p.off {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.want {
		if p.want[i].shape.same(s) {
			p.want[i].count = count
			p.poke()
			return
		}
	}
	p.want = append(p.want, ahead{s, count})
	p.poke()
}

// Take returns a jail that nobody has used. The error is Exhausted where all
// users of the range are taken, Invalid for a program that is none, and
// Unavailable where the host lacks something.
func (p *Pool) Take(ctx context.Context, s Spec) (_ *Jail, err error) {
	if p.off {
		return &Jail{pool: p, spec: s}, nil
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Limits.Processes = processes(s.Limits)
	j := p.waiting(s.Shape)
	if j == nil {
		if j, err = p.make(ctx, s.Shape); err != nil {
			return nil, err
		}
	}
	j.spec = s
	if err := j.group.limit(s.Limits); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// waiting takes a jail out of the pool. One whose first process has died
// meanwhile is thrown away.
func (p *Pool) waiting(s Shape) *Jail {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; i < len(p.ready); i++ {
		j := p.ready[i]
		if !j.spec.same(s) {
			continue
		}
		p.ready = append(p.ready[:i], p.ready[i+1:]...)
		p.poke()
		if j.good() {
			return j
		}
		p.log.Warn("a jail that waited is not what it was and is thrown away", "uid", j.uid)
		p.filling.Go(func() { _ = j.Close() })
		i--
	}
	return nil
}

// poke lets fill look again. It does not block.
func (p *Pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// refillAfter keeps the making of the next jail out of the way of the start
// that has just taken one.
const refillAfter = 250 * time.Millisecond

// fill makes jails ahead, one after the other. It ends with ctx.
func (p *Pool) fill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		for {
			shape, first, ok := p.missing()
			if !ok {
				break
			}
			if !first && !wait(ctx, refillAfter) {
				return
			}
			j, err := p.make(ctx, shape)
			if err != nil {
				if ctx.Err() == nil {
					p.log.Warn("no jail could be made ahead", "program", shape.Program, "err", err)
				}
				break // until the next Take, which will say so
			}
			p.keep(j)
		}
	}
}

// missing is a shape of which too few wait; first, if none of any shape does.
func (p *Pool) missing() (_ Shape, first, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.want {
		n := 0
		for _, j := range p.ready {
			if j.spec.same(w.shape) {
				n++
			}
		}
		if n < w.count {
			return w.shape, len(p.ready) == 0, true
		}
	}
	return Shape{}, false, false
}

func (p *Pool) keep(j *Jail) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.filling.Go(func() { _ = j.Close() })
		return
	}
	p.ready = append(p.ready, j)
}

// Waiting is how many jails are ready to be taken.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ready)
}

// Close removes the jails that wait. Those that were taken stay their takers'.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed || p.off {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	ready := p.ready
	p.ready, p.want = nil, nil
	p.mu.Unlock()
	p.closing()
	var errs []error
	for _, j := range ready {
		errs = append(errs, j.Close())
	}
	p.filling.Wait()
	p.tree.uproot()
	return errors.Join(append(errs, p.ids.release())...)
}

// over reports whether the pool was closed.
func (p *Pool) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// able names what of the rights that jails are made with this process lacks.
func able() error {
	if os.Geteuid() != 0 {
		return dayfly.Errorf(dayfly.Unavailable, "jail: this process is not root, which alone can make jails: run it as root, or with the jail switched off where no guest is hostile")
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
