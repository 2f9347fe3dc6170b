package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
)

// Sweep removes what owners left that are gone: first processes that wait for
// nobody, control groups, and accounts of users. Of processes that still run it
// asks keep, which is given their id on the host; nil keeps all. Those it does
// not keep are killed, and those that were told to become a program and have not
// yet: nobody could find them by what they are. Jails of owners that live are not
// touched.
func (p *Pool) Sweep(ctx context.Context, keep func(pid int) bool) error {
	if p.off {
		return nil
	}
	n, err := p.ids.slots()
	if err != nil {
		return err
	}
	var errs []error
	for i := range n {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, p.sweepSlot(ctx, i, keep))
	}
	return errors.Join(append(errs, p.tree.sweep(p.ids))...)
}

func (p *Pool) sweepSlot(ctx context.Context, i int, keep func(pid int) bool) error {
	p.ids.mu.Lock()
	ok, err := p.ids.lock(i)
	p.ids.mu.Unlock()
	if err != nil || !ok {
		return err
	}
	uid := p.ids.span.First + i
	o, err := p.ids.read(i)
	if err == nil && o.alive() {
		if o.phase == phaseRuns && o.began() && (keep == nil || keep(o.pid)) {
			p.ids.mu.Lock()
			defer p.ids.mu.Unlock()
			p.ids.unlock(i)
			return nil
		}
		err = o.kill(ctx)
	}
	return errors.Join(err, p.tree.group(uid).remove(), p.ids.give(uid))
}

// kill ends that very process and waits until it is gone.
func (o occupant) kill(ctx context.Context) error {
	fd, err := unix.PidfdOpen(o.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("jail: orphan %d: %w", o.pid, err)
	}
	defer unix.Close(fd)
	if !o.alive() {
		return nil // the id was given to another meanwhile
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("jail: orphan %d: %w", o.pid, err)
	}
	const look = 100 * time.Millisecond // between two looks at ctx; the end is seen at once
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(look.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("jail: orphan %d: %w", o.pid, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// sweep removes groups of users that no jail has.
func (t *tree) sweep(s *ids) error {
	var errs []error
	for _, dir := range (&group{t, ""}).dirs() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // removed by somebody: the next jail makes it again
		}
		for _, e := range entries {
			uid, err := strconv.Atoi(e.Name())
			i := uid - s.span.First
			if err != nil || !e.IsDir() || i < 0 || i >= s.span.Count {
				continue
			}
			errs = append(errs, s.whileFree(i, func() error { return removeGroup(filepath.Join(dir, e.Name())) }))
		}
	}
	return errors.Join(errs...)
}

// whileFree calls do while nobody has the slot; not at all if somebody has.
func (s *ids) whileFree(i int, do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok, err := s.lock(i)
	if err != nil || !ok {
		return err
	}
	defer s.unlock(i)
	if o, err := s.read(i); err != nil || o.alive() {
		return err
	}
	return do()
}

// Adopt takes over the jail of a process that outlived its owner, so that Close
// ends it and removes the jail. It waits a moment for an owner that is dying. The
// error is NotFound for a process that is in no jail, and Conflict for one in the
// jail of an owner that lives.
func (p *Pool) Adopt(pid int) (j *Jail, err error) {
	if p.off {
		return nil, notJailed(pid)
	}
	err = flock.Within(context.Background(), flock.Moment, func() error {
		j, err = p.tryAdopt(pid)
		return err
	})
	if errors.Is(err, flock.ErrHeld) {
		return nil, &dayfly.Error{Kind: dayfly.Conflict, Msg: fmt.Sprintf("jail: process %d has an owner already: end that process, or let it go first", pid), Err: err}
	}
	return j, err
}

func notJailed(pid int) error {
	return dayfly.Errorf(dayfly.NotFound, "jail: process %d is in no jail", pid)
}

// tryAdopt says flock.ErrHeld where somebody has the slot.
func (p *Pool) tryAdopt(pid int) (*Jail, error) {
	n, err := p.ids.slots()
	if err != nil {
		return nil, err
	}
	p.ids.mu.Lock()
	defer p.ids.mu.Unlock()
	for i := range n {
		if o, err := p.ids.read(i); err != nil || o.pid != pid || o.phase != phaseRuns || !o.alive() {
			continue
		}
		ok, err := p.ids.lock(i)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, flock.ErrHeld
		}
		o, err := p.ids.read(i)
		if err != nil || o.pid != pid || !o.alive() {
			p.ids.unlock(i)
			return nil, errors.Join(notJailed(pid), err)
		}
		proc, err := adopted(o)
		if err != nil {
			p.ids.unlock(i)
			return nil, err
		}
		uid := p.ids.span.First + i
		return &Jail{pool: p, uid: uid, group: p.tree.group(uid), proc: proc, who: o, started: true, orphan: true}, nil
	}
	return nil, notJailed(pid)
}

// adopted is a Process that is not our child: its end is seen, its exit status
// is not.
func adopted(o occupant) (*Process, error) {
	proc, err := os.FindProcess(o.pid) // by a pidfd, so that it stays this one
	if err != nil || !o.alive() {
		return nil, errors.Join(dayfly.Errorf(dayfly.NotFound, "jail: process %d has ended", o.pid), err)
	}
	fd, err := unix.PidfdOpen(o.pid, 0)
	if err != nil {
		return nil, fmt.Errorf("jail: orphan %d: %w", o.pid, err)
	}
	p := &Process{proc: proc, done: make(chan struct{}), watched: make(chan struct{}), stop: -1}
	close(p.watched)
	go func() {
		defer close(p.done)
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return p, nil
}

// Process is what runs in the jail, or nil.
func (j *Jail) Process() *Process {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.started {
		return nil
	}
	return j.proc
}

// Detach lets go of a jail whose process was started as an orphan and goes on
// running, for another pool of the same directory to Adopt. The Jail is closed
// then. The kernel has fatal system calls fail from now on.
func (j *Jail) Detach() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || !j.started || !j.orphan || j.pool.off {
		return dayfly.Errorf(dayfly.Conflict, "jail: no process that can be left alone runs in it")
	}
	j.closed = true
	if j.line != nil {
		j.line.close()
	}
	j.proc.deaf()
	var errs []error
	if j.users != nil {
		errs = append(errs, j.users.Close())
	}
	for _, f := range j.owned {
		errs = append(errs, f.Close())
	}
	return errors.Join(append(errs, j.pool.ids.leave(j.uid))...)
}
