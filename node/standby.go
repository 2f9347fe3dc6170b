package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/template"
	"github.com/dayfly/dayfly/vmm"
)

// Standby is how many machines a node holds ready for starts to claim, and what
// they are. The zero value: none.
type Standby struct {
	Count     int
	MaxAge    time.Duration // then a machine is replaced; default 10 min
	CPUs      int           // default: that of a Spec
	MemoryMiB int           // default: that of a Spec
}

func (s Standby) normal() Standby {
	if s.MaxAge == 0 {
		s.MaxAge = 10 * time.Minute
	}
	if s.CPUs == 0 {
		s.CPUs = dayfly.DefaultCPUs
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = dayfly.DefaultMemoryMiB
	}
	return s
}

// spare is a machine that was restored ahead of time and has rehearsed a start:
// its code is translated and its caches are warm. An empty one serves any image,
// a prepared one that which it was made for. It becomes the workspace whose id
// and directory it was given.
type spare struct {
	home    *scratch
	props   string // its throw-away parts
	key     template.Key
	memory  *os.File
	machine vmm.Machine
	cell    *cell.Cell
	session *guest.Session
	made    time.Time

	// Only of a prepared one, which is paused.
	image   string // what callers call it
	lease   *image.Lease
	content *disk.Content // of its disk
}

func (s *spare) prepared() bool { return s.key.Image != "" }

// end ends the machine, whose directory is another's to remove. Parts that were
// never made are fine.
func (s *spare) end() error {
	var errs []error
	if s.session != nil {
		_ = s.session.Close()
	}
	if s.machine != nil {
		errs = append(errs, s.machine.Close())
	}
	if s.memory != nil {
		errs = append(errs, s.memory.Close())
	}
	if s.lease != nil {
		errs = append(errs, s.lease.Close())
	}
	if s.props != "" {
		errs = append(errs, os.RemoveAll(s.props))
	}
	return errors.Join(errs...)
}

// close ends the machine and leaves nothing of it.
func (s *spare) close() error {
	err := s.end()
	if s.home != nil {
		err = errors.Join(err, s.home.remove())
	}
	return err
}

// pool keeps spares. One goroutine fills it; it does so when no start is under
// way and memory is plentiful, as no workspace should be slower for it.
type pool struct {
	node *Node
	Standby

	stop context.CancelFunc
	done chan struct{}
	wake chan struct{}

	mu     sync.Mutex
	closed bool
	ready  []*spare // the oldest first
	starts int      // under way
	quiet  time.Time
	latest wish // what was started last
}

// wish is a kind of workspace that a prepared machine would serve.
type wish struct {
	image   string // what callers call it
	digest  string
	diskMiB int
}

func newPool(n *Node, s Standby) *pool {
	p := &pool{node: n, Standby: s.normal(), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	if p.Count <= 0 {
		close(p.done)
		return p
	}
	go p.run(ctx)
	return p
}

// close ends the filling and all spares.
func (p *pool) close() error {
	p.stop()
	<-p.done
	p.mu.Lock()
	ready := p.ready
	p.ready, p.closed = nil, true
	p.mu.Unlock()
	var errs []error
	for _, s := range ready {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// take hands out the spare that serves a spec best, or nil. It belongs to the
// caller.
func (p *pool) take(spec dayfly.Spec) *spare {
	if spec.Cold || spec.CPUs != p.CPUs || spec.MemoryMiB != p.MemoryMiB {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	best := -1
	for i, s := range p.ready {
		switch {
		case s.prepared() && s.image == spec.Image && s.key.DiskMiB == spec.DiskMiB:
			best = i
		case !s.prepared() && best < 0:
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	s := p.ready[best]
	p.ready = slices.Delete(p.ready, best, best+1)
	select {
	case <-s.machine.Done(): // it ended while it waited
		go func() { _ = s.close() }()
		return nil
	default:
		return s
	}
}

// put takes back a spare that was not needed after all.
func (p *pool) put(s *spare) error {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.ready = append([]*spare{s}, p.ready...) // it was among the oldest
	}
	p.mu.Unlock()
	if closed {
		return s.close()
	}
	return nil
}

// started notes what was started, for the next machines to be prepared for.
func (p *pool) started(ws dayfly.Workspace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ws.Spec.Image != "" && ws.Spec.CPUs == p.CPUs && ws.Spec.MemoryMiB == p.MemoryMiB {
		p.latest = wish{ws.Spec.Image, ws.Image.Digest, ws.Spec.DiskMiB}
	}
}

// begin and end tell the pool of a start under way.
func (p *pool) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts++
}

func (p *pool) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts--
	p.quiet = time.Now()
	p.nudge()
}

func (p *pool) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// How the filling paces itself.
const (
	quietTime = 300 * time.Millisecond // without a start, before one is made
	retryTime = 30 * time.Second       // after one could not be made

	// spareRoom is what must be free beside the machine's memory, as a part of
	// the host's.
	spareRoom = 8
)

// run fills the pool until ctx ends.
func (p *pool) run(ctx context.Context) {
	defer close(p.done)
	for ctx.Err() == nil {
		p.retire()
		wait := p.idle()
		if wait == 0 {
			if wait = p.fill(ctx); wait == 0 {
				continue
			}
		}
		select {
		case <-time.After(wait):
		case <-p.wake:
		case <-ctx.Done():
		}
	}
}

// fill makes one spare, and returns how long to wait before the next try.
func (p *pool) fill(ctx context.Context) time.Duration {
	if !plenty(p.MemoryMiB) {
		p.node.Log.Debug("no standby machine: little memory is free")
		return retryTime
	}
	s, err := p.node.newSpare(ctx, p.CPUs, p.MemoryMiB, p.next())
	if err != nil {
		if ctx.Err() == nil {
			p.node.Log.Warn("no standby machine", "err", err)
		}
		return retryTime
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, s)
	p.node.Log.Debug("standby machine ready", "id", s.home.id)
	return 0
}

// next says what the next spare is to be prepared for: nothing, if it is the one
// that serves any image.
func (p *pool) next() wish {
	p.mu.Lock()
	defer p.mu.Unlock()
	empty := slices.ContainsFunc(p.ready, func(s *spare) bool { return !s.prepared() })
	if p.latest.image == "" || p.Count > 1 && !empty {
		return wish{}
	}
	return p.latest
}

// idle returns 0 if a spare should be made now, or how long to wait.
func (p *pool) idle() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) >= p.Count || p.starts > 0 {
		return p.MaxAge / 2 // or until nudged
	}
	return max(0, quietTime-time.Since(p.quiet))
}

// retire ends the spares that are too old, or prepared for what nobody has
// started lately.
func (p *pool) retire() {
	p.mu.Lock()
	var old []*spare
	p.ready = slices.DeleteFunc(p.ready, func(s *spare) bool {
		gone := time.Since(s.made) > p.MaxAge ||
			s.prepared() && (s.key.Image != p.latest.digest || s.key.DiskMiB != p.latest.diskMiB)
		if gone {
			old = append(old, s)
		}
		return gone
	})
	p.mu.Unlock()
	for _, s := range old {
		if err := s.close(); err != nil {
			p.node.Log.Error("end of a standby machine", "err", err)
		}
	}
}

// politeness is the nice value of a machine that nobody uses yet.
const politeness = 10

// setNice sets the nice value of all threads of a VMM. Where that is not allowed
// it stays what it was.
func setNice(pid, value int) {
	tasks, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, value)
		}
	}
}

// plenty reports whether the host has room for one more machine that nobody
// uses yet.
func plenty(memoryMiB int) bool {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false
	}
	field := func(name string) (kib int64) {
		_, rest, _ := strings.Cut(string(b), name+":")
		f := strings.Fields(rest)
		if len(f) > 0 {
			kib, _ = strconv.ParseInt(f[0], 10, 64)
		}
		return kib
	}
	return field("MemAvailable") > int64(memoryMiB)<<10+field("MemTotal")/spareRoom
}

// newSpare makes a spare: an empty one, or one prepared for what is wished.
func (n *Node) newSpare(ctx context.Context, cpus, memoryMiB int, w wish) (*spare, error) {
	boot, key, err := n.machineFor(ctx, cpus, memoryMiB)
	if err != nil {
		return nil, err
	}
	if w.image != "" {
		return n.newPreparedSpare(ctx, preparedKey(key, dayfly.Image{Digest: w.digest}, w.diskMiB), boot, w.image)
	}
	return n.newEmptySpare(ctx, key, boot)
}

// newEmptySpare restores a machine on throw-away parts and lets it rehearse a start.
func (n *Node) newEmptySpare(ctx context.Context, key template.Key, boot kernel.Boot) (_ *spare, err error) {
	s := &spare{key: key, made: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	base, err := n.template(ctx, key, boot)
	if err != nil {
		return nil, err
	}
	s.memory = base.Memory
	if s.home, err = n.newScratch(); err != nil {
		return nil, err
	}
	s.props = filepath.Join(s.home.dir, "props")
	props, err := newProps(ctx, s.props)
	if err != nil {
		return nil, err
	}
	if s.machine, s.cell, err = n.launchFrom(ctx, s.home, base, boot, props.drives()); err != nil {
		return nil, err
	}
	setNice(s.machine.PID(), politeness)
	s.session, err = n.rehearse(ctx, s.machine, props)
	return s, err
}
