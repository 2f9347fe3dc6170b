package qemu

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm"
)

// maxWords bounds what is kept of QEMU's standard error.
const maxWords = 64 << 10

// process is a running QEMU.
type process struct {
	cmd   *exec.Cmd
	words *vmm.Tail     // of its standard error
	done  chan struct{} // closed when it has been reaped
}

// spec is what a process is started from.
type spec struct {
	binary string
	args   []string
	dir    string
	files  []*os.File // descriptors 3 and up
	orphan bool
}

// spawn starts QEMU in a session of its own, so that a terminal's Ctrl-C does
// not reach it. Unless it is an orphan the kernel kills it with us: that
// signal comes with the death of the starting *thread*, so the thread is kept
// until the process is gone.
func spawn(s spec) (*process, error) {
	p := &process{words: vmm.NewTail(maxWords), done: make(chan struct{})}
	p.cmd = &exec.Cmd{
		Path:       s.binary,
		Args:       append([]string{s.binary}, s.args...),
		Env:        []string{"LC_ALL=C"}, // errors are recognised by their text
		Dir:        s.dir,
		ExtraFiles: s.files,
		Stderr:     p.words,
		// Nobody else should hold standard error, but Wait must end.
		WaitDelay:   time.Second,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if !s.orphan {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		if err == nil {
			// A dump would put the guest's secrets into a file. It is QEMU that
			// would abort, long after this.
			_ = unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
		}
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // its verdict is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // no error but that it is gone already
	<-p.done
}

// lastWords says how the process ended. It must have.
func (p *process) lastWords() error {
	how := "gone"
	if p.cmd.ProcessState != nil {
		how = p.cmd.ProcessState.String()
	}
	if said := p.words.Bytes(); len(said) > 0 {
		return fmt.Errorf("qemu: %s: %q", how, said)
	}
	return fmt.Errorf("qemu: %s", how)
}
