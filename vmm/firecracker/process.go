package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm"
)

// process is a running Firecracker: a child of ours, one we adopted, or one that
// a Spawner keeps.
type process struct {
	pid    int
	done   <-chan struct{}         // closed when it is gone; a child is reaped by then
	signal func()                  // SIGKILL
	forget func()                  // ends the watch over one that is no child
	state  func() *os.ProcessState // nil where it is not known; valid once done is closed
	cause  func() error            // how a Spawner says that it ended, or nil
	inside vmm.Furnished           // what it lives in, where that is not what we do
}

// spec is what a process is started from.
type spec struct {
	binary string
	name   string // its argv[0]
	args   []string
	dir    string
	stdout *os.File
	stderr *os.File
	files  []*os.File // descriptors 3 and up
	orphan bool
}

// spawn starts Firecracker in a session of its own, so that a terminal's Ctrl-C
// does not reach it. Unless it is an orphan the kernel kills it with us: that
// signal comes with the death of the starting *thread*, so the thread is kept
// until the process is gone.
func spawn(s spec) (*process, error) {
	done := make(chan struct{})
	p := &process{done: done}
	cmd := &exec.Cmd{
		Path:        s.binary,
		Args:        append([]string{s.name}, s.args...),
		Env:         environment,
		Dir:         s.dir,
		ExtraFiles:  s.files,
		Stdout:      s.stdout,
		Stderr:      s.stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if !s.orphan {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
			// A dump would put the guest's secrets into a file. It is Firecracker
			// that would abort, long after this.
			_ = unix.Prlimit(p.pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // its verdict is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	p.signal = func() { _ = cmd.Process.Kill() } // no error but that it is gone already
	p.forget = func() {}                         // a child is watched to its end
	p.state = func() *os.ProcessState { return cmd.ProcessState }
	return p, nil
}

// attach watches a process that is no child of ours. It takes the pidfd.
func attach(pid int, pidfd *os.File) (*process, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	done := make(chan struct{})
	p := &process{pid: pid, done: done, state: func() *os.ProcessState { return nil }}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		gone := false
		_ = raw.Read(func(fd uintptr) bool { gone = ended(int(fd)); return gone }) // or forget was called
		if gone {
			close(done)
		}
	}()
	p.signal = func() {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) // no error but that it is gone already
		})
	}
	p.forget = func() {
		_ = pidfd.SetReadDeadline(time.Unix(1, 0))
		<-stopped
		_ = pidfd.Close()
	}
	return p, nil
}

// ended reports whether a pidfd's process is gone.
func ended(pidfd int) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// openPidfd holds on to one process, whatever its number becomes.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// dies reports whether the process is gone, or will be in a moment: one that is
// ending has no name, files and mounts any more before it is seen to be gone.
func (p *process) dies(ctx context.Context) bool {
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
	case <-time.After(dyingLimit):
	}
	return false
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	p.signal()
	<-p.done
}

// exits are the codes with which Firecracker ends by a reason of its own
// (FcExitCode in src/vmm/src/lib.rs).
var exits = map[int]string{
	1:   "an error",
	2:   "an unexpected error",
	148: "killed by its seccomp filter",
	149: "killed by a bus error",
	150: "killed by a bad memory access",
	151: "killed by the limit on file sizes",
	152: "a bad configuration",
	153: "a bad command line",
	154: "killed by the limit on processor time",
	156: "hung up",
	157: "killed by an illegal instruction",
}

// well reports whether Firecracker ended as it does when its guest has ended
// itself: by its exit code, or by its log where that is not to be had.
func (p *process) well(log *vmm.Tail) bool {
	if state := p.state(); state != nil {
		return state.Success()
	}
	return saidWell(log.Bytes())
}

// how says how the process ended. It must have.
func (p *process) how() string {
	state := p.state()
	if state != nil {
		if why, ok := exits[state.ExitCode()]; ok {
			return fmt.Sprintf("%s (%s)", why, state)
		}
	}
	if p.cause != nil {
		if err := p.cause(); err != nil {
			return err.Error()
		}
	}
	if state == nil {
		return "gone"
	}
	return state.String()
}
