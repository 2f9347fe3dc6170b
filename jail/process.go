package jail

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is what runs in a jail. Its methods may be called at the same time.
type Process struct {
	proc      *os.Process
	done      chan struct{} // closed when it has been reaped
	state     *os.ProcessState
	forbidden atomic.Pointer[string]
	watched   chan struct{} // closed when nobody listens for fatal calls any more
	stop      int           // an event that ends listening; -1: nobody does
}

// spawn starts a process. A signal that comes with the death of its parent
// comes with that of the starting *thread*, so the thread is kept until the
// process is gone.
func spawn(path string, args []string, attr *os.ProcAttr) (*Process, error) {
	p := &Process{done: make(chan struct{}), watched: make(chan struct{}), stop: -1}
	close(p.watched)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var err error
		p.proc, err = os.StartProcess(path, args, attr)
		started <- err
		if err == nil {
			p.state, _ = p.proc.Wait() // nil if somebody else has reaped it
			close(p.done)
		}
	}()
	return p, <-started
}

// PID is the process's id on the host.
func (p *Process) PID() int { return p.proc.Pid }

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process and waits until it is gone.
func (p *Process) Kill() {
	_ = p.proc.Kill() // no error but that it is gone already
	<-p.done
	<-p.watched
}

// Exit is how a process ended.
type Exit struct {
	State     *os.ProcessState // nil if it is not known
	Forbidden string           // the name of the system call it was killed for, or ""
}

// Exit says how the process ended, and waits for that.
func (p *Process) Exit() Exit {
	<-p.done
	<-p.watched
	e := Exit{State: p.state}
	if name := p.forbidden.Load(); name != nil {
		e.Forbidden = *name
	}
	return e
}

// Err says how the process ended, in words; nil if it ended by itself and well.
func (e Exit) Err() error {
	if e.Forbidden != "" {
		return fmt.Errorf("killed for the system call %s, which the jail forbids", e.Forbidden)
	}
	if e.State == nil {
		return errors.New("gone")
	}
	if status, ok := e.State.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == unix.SIGSYS {
		return errors.New("killed for a forbidden system call")
	}
	if e.State.Success() {
		return nil
	}
	return errors.New(e.State.String())
}

// watch kills the process when it makes a fatal call, and notes which. It ends
// with the process, or with deaf, and closes listener. Should this process die
// before, the kernel has fatal calls fail instead.
func (p *Process) watch(listener int) error {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(listener)
		return fmt.Errorf("jail: %w", err)
	}
	p.stop = stop
	p.watched = make(chan struct{})
	go func() {
		defer close(p.watched)
		defer unix.Close(listener)
		for p.listen(listener) {
		}
	}()
	return nil
}

// listen waits for the next fatal call. It reports false when there will be
// none, or when nobody wants to know.
func (p *Process) listen(listener int) bool {
	poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}, {Fd: int32(p.stop), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, -1); err != nil {
		return errors.Is(err, unix.EINTR)
	}
	if poll[0].Revents&unix.POLLIN == 0 {
		return false // nobody is left who could make a call, or we are to stop
	}
	nr, err := hear(listener)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
		return true // killed meanwhile
	}
	if err == nil {
		name := callName(nr)
		p.forbidden.CompareAndSwap(nil, &name)
	}
	_ = p.proc.Kill() // also where the call cannot be read
	return err == nil
}

// deaf ends watch and frees what that has. The jail calls it as it closes.
func (p *Process) deaf() {
	if p.stop >= 0 {
		_, _ = unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // a counter that has room
		<-p.watched
		unix.Close(p.stop)
		p.stop = -1
	}
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) }
