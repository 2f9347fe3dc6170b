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
	making *making // a jail that fill is about to add, or nil
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

// making is a jail in the making.
type making struct {
	shape Shape
	done  chan struct{}
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Limits.Processes = processes(s.Limits)
	j := p.waiting(s.Shape)
	if j == nil && p.awaitMade(ctx, s.Shape) {
		j = p.waiting(s.Shape)
	}
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

// awaitMade waits for a jail of the shape that is being made ahead just now,
// which is sooner there than another one would be. It reports false if there is
// none.
func (p *Pool) awaitMade(ctx context.Context, s Shape) bool {
	p.mu.Lock()
	m := p.making
	p.mu.Unlock()
	if m == nil || !m.shape.same(s) {
		return false
	}
	select {
	case <-m.done:
	case <-ctx.Done(): // which make will see, too
	}
	return true
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
			if err := p.makeAhead(ctx, shape); err != nil {
				if ctx.Err() == nil {
					p.log.Warn("no jail could be made ahead", "program", shape.Program, "err", err)
				}
				break // until the next Take, which will say so
			}
		}
	}
}

// makeAhead adds a jail to those that wait.
func (p *Pool) makeAhead(ctx context.Context, s Shape) error {
	m := &making{s, make(chan struct{})}
	p.mu.Lock()
	p.making = m
	p.mu.Unlock()
	j, err := p.make(ctx, s)
	if err == nil {
		p.keep(j)
	}
	p.mu.Lock()
	p.making = nil
	p.mu.Unlock()
	close(m.done)
	return err
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
