package qemu

import (
	"bytes"
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

// process is a running QEMU, a child of ours or not.
type process struct {
	pid    int
	done   <-chan struct{} // closed when it is gone; of a child, reaped
	signal func()          // SIGKILL
	words  func() []byte   // the end of its standard error; an orphan's is the beginning
	how    func() string   // it ended; valid once done is closed
	forget func()          // ends our watching it; nil of a child, which is watched to its end
}

// spec is what a process is started from.
type spec struct {
	program vmm.Program
	args    []string
	dir     string
	files   []*os.File // descriptors 3 and up
	paths   []vmm.Path // what it opens by name
	nics    []vmm.NIC  // whose TAPs a Spawner adds to the files
	orphan  bool
}

// environment is all that QEMU has: errors are recognised by their text.
var environment = []string{"LC_ALL=C"}

// spawn starts QEMU in a session of its own, so that a terminal's Ctrl-C does
// not reach it. Unless it is an orphan the kernel kills it with us: that
// signal comes with the death of the starting *thread*, so the thread is kept
// until the process is gone.
func spawn(s spec) (*process, error) {
	done := make(chan struct{})
	p := &process{done: done}
	cmd := &exec.Cmd{
		Path:       s.program.Path,
		Args:       append([]string{s.program.Path}, s.args...),
		Env:        environment,
		Dir:        s.dir,
		ExtraFiles: s.files,
		// Nobody else should hold standard error, but Wait must end.
		WaitDelay:   time.Second,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	words, err := p.listen(cmd, s.orphan)
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		if err == nil {
			// A dump would put the guest's secrets into a file. It is QEMU that
			// would abort, long after this.
			_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // its verdict is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, joinClose(err, words...)
	}
	p.pid = cmd.Process.Pid
	p.signal = func() { _ = cmd.Process.Kill() } // no error but that it is gone already
	p.how = func() string { return cmd.ProcessState.String() }
	return p, nil
}

// listen keeps the end of a child's standard error. An orphan's goes to a file,
// as nobody may be there to read.
func (p *process) listen(cmd *exec.Cmd, orphan bool) ([]*os.File, error) {
	if !orphan {
		tail := vmm.NewTail(maxWords)
		cmd.Stderr, p.words = tail, tail.Bytes
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		return nil, nil
	}
	f, err := newWords()
	if err != nil {
		return nil, err
	}
	cmd.Stderr, p.words = f, func() []byte { return readWords(f) }
	return []*os.File{f}, nil
}

// newWords makes a file for a standard error that nobody reads as it comes. It
// is in memory, and sealed at its size: what does not fit is refused by the
// kernel, so that neither a disk nor the memory fills with it.
func newWords() (*os.File, error) {
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("qemu: stderr: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stderr")
	if err := f.Truncate(maxWords); err != nil {
		return nil, joinClose(fmt.Errorf("qemu: stderr: %w", err), f)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return nil, joinClose(fmt.Errorf("qemu: stderr: %w", err), f)
	}
	return f, nil
}

func readWords(f *os.File) []byte {
	b := make([]byte, maxWords)
	n, _ := f.ReadAt(b, 0) // an adopted one's may be anything: then it said nothing
	return bytes.TrimRight(b[:n], "\x00")
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	p.signal()
	<-p.done
}

// lastWords says how the process ended. It must have.
func (p *process) lastWords() error {
	if said := p.words(); len(said) > 0 {
		return fmt.Errorf("qemu: %s: %q", p.how(), said)
	}
	return fmt.Errorf("qemu: %s", p.how())
}
