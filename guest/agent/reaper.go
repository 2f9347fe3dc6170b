package agent

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper starts children and collects their exits. One made by NewReaper
// collects all children of this process, orphans it was given included; then
// every child must be started through it. The zero Reaper waits for each of
// its own children and leaves others alone. Methods may be called at the same
// time.
type Reaper struct {
	mu       sync.Mutex // held over fork + register, over reap + deliver, and over kill
	children map[int]*Child
	all      bool // wait4(-1) may be called

	wake chan os.Signal
	stop chan struct{}
	done chan struct{}
}

// Child is a process started by a Reaper.
type Child struct {
	reaper *Reaper
	pid    int
	reaped bool // guarded by reaper.mu
	exit   Exit
	done   chan struct{}
}

// Exit is how a child ended.
type Exit struct {
	Status syscall.WaitStatus
	Usage  syscall.Rusage
}

// NewReaper starts to collect all children of this process. Close ends it.
func NewReaper() *Reaper {
	r := &Reaper{
		all:  true,
		wake: make(chan os.Signal, 1), // one pending wake-up is enough: a sweep takes all
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	signal.Notify(r.wake, syscall.SIGCHLD)
	go r.run()
	return r
}

// Close stops collecting. Children that still run are not collected any more.
func (r *Reaper) Close() error {
	if !r.all {
		return nil
	}
	r.mu.Lock()
	select {
	case <-r.stop:
	default:
		signal.Stop(r.wake)
		close(r.stop)
	}
	r.mu.Unlock()
	<-r.done
	return nil
}

func (r *Reaper) run() {
	defer close(r.done)
	for {
		r.sweep()
		select {
		case <-r.wake:
		case <-r.stop:
			return
		}
	}
}

// sweep collects every child that has ended.
func (r *Reaper) sweep() {
	for {
		r.mu.Lock()
		var exit Exit
		pid, err := syscall.Wait4(-1, &exit.Status, syscall.WNOHANG, &exit.Usage)
		if c := r.children[pid]; c != nil && err == nil {
			r.deliver(c, exit)
		}
		r.mu.Unlock()
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}

// deliver tells a child's owner; r.mu is held.
func (r *Reaper) deliver(c *Child, exit Exit) {
	delete(r.children, c.pid)
	c.exit, c.reaped = exit, true
	close(c.done)
}

// Start calls fork, which starts one process and returns its pid, and
// registers it before anyone can collect it.
func (r *Reaper) Start(fork func() (pid int, err error)) (*Child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	c := &Child{reaper: r, pid: pid, done: make(chan struct{})}
	if r.children == nil {
		r.children = make(map[int]*Child)
	}
	r.children[pid] = c
	if !r.all {
		go r.await(c)
	}
	return c, nil
}

// await waits for one child. It learns of the end before it collects, so that
// collecting happens under the lock that kill takes.
func (r *Reaper) await(c *Child) {
	for errors.Is(unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil), syscall.EINTR) {
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var exit Exit
	for {
		_, err := syscall.Wait4(c.pid, &exit.Status, 0, &exit.Usage)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	r.deliver(c, exit)
}

// PID returns the child's process id.
func (c *Child) PID() int { return c.pid }

// Done is closed when the child has ended and was collected.
func (c *Child) Done() <-chan struct{} { return c.done }

// Exit returns how the child ended. It waits for that.
func (c *Child) Exit() Exit {
	<-c.done
	return c.exit
}

// SignalGroup signals the process group that the child leads. Once the child
// was collected it returns os.ErrProcessDone: its number may be another's.
func (c *Child) SignalGroup(sig syscall.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	return syscall.Kill(-c.pid, sig)
}
