package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// stdio is a process's three descriptors, and our ends of them.
type stdio struct {
	child  [3]*os.File // closed once the child has them
	input  *os.File    // where its input is written; nil: none
	output []source    // what it writes
}

// source is one of our reading ends.
type source struct {
	kind sourceKind
	file *os.File
}

type sourceKind byte

const (
	fromStdout sourceKind = iota
	fromStderr
	fromPTY
)

// open makes pipes or a terminal, as the request asks.
func (l *launch) open(req *wire.StartRequest) (io *stdio, err error) {
	io = new(stdio)
	defer func() {
		if err != nil {
			io.close()
			err = wire.Errorf(wire.ResourceExhausted, "%q: open pipes: %v", l.argv[0], reason(err))
		}
	}()
	if req.PTY != nil {
		return io, io.openPTY(l.user, req.PTY.Size)
	}
	if req.Stdin == nil || *req.Stdin {
		err = io.pipe(l.user, 0)
	} else {
		io.child[0], err = os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	}
	for fd := 1; fd <= 2 && err == nil; fd++ {
		err = io.pipe(l.user, fd)
	}
	return io, err
}

// pipe makes the pipe of one descriptor. Our end does not block, so that it
// can be read with a deadline; the child's does, as programs expect.
func (io *stdio) pipe(user account, fd int) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	ours, theirs := p[0], p[1]
	if fd == 0 {
		ours, theirs = p[1], p[0]
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		unix.Close(theirs)
		return err
	}
	if int(user.uid) != os.Geteuid() {
		_ = unix.Fchown(theirs, int(user.uid), -1) // so that the user may reopen /dev/stdout
	}
	io.child[fd] = os.NewFile(uintptr(theirs), "child")
	file := os.NewFile(uintptr(ours), "pipe")
	switch fd {
	case 0:
		io.input = file
	case 1:
		io.output = append(io.output, source{fromStdout, file})
	case 2:
		io.output = append(io.output, source{fromStderr, file})
	}
	return nil
}

func (io *stdio) openPTY(user account, size *wire.Size) error {
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	io.child = [3]*os.File{slave, slave, slave}
	master, err = unblocked(master)
	if err != nil {
		return err
	}
	io.input, io.output = master, []source{{fromPTY, master}}
	if int(user.uid) != os.Geteuid() {
		_ = slave.Chown(int(user.uid), -1)
	}
	return resize(master, size)
}

// unblocked returns the terminal in a file that can be read with a deadline and
// closed during a read; package pty leaves it in blocking mode. It closes f.
func unblocked(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pty"), nil
}

// Bounds of a terminal; the kernel keeps a size in 16 bits.
const maxTerminal = 1<<16 - 1

func resize(master *os.File, size *wire.Size) error {
	if size == nil || size.Cols == 0 || size.Rows == 0 {
		return nil
	}
	raw, err := master.SyscallConn() // not pty.Setsize: it makes the file block
	if err != nil {
		return err
	}
	to := unix.Winsize{Col: uint16(min(size.Cols, maxTerminal)), Row: uint16(min(size.Rows, maxTerminal))}
	if cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &to) }); cerr != nil {
		return cerr
	}
	return err
}

// release closes the child's ends.
func (io *stdio) release() {
	for i, f := range io.child {
		if f != nil && (i == 0 || f != io.child[0]) {
			f.Close()
		}
		io.child[i] = nil
	}
}

func (io *stdio) close() {
	io.release()
	if io.input != nil {
		io.input.Close()
	}
	for _, s := range io.output {
		s.file.Close() // a terminal is closed twice, which os.File takes
	}
}

// spawn starts the program in a session and process group of its own.
func (a *Agent) spawn(l *launch, io *stdio, withPTY bool) (*Child, error) {
	sys := &syscall.SysProcAttr{Setsid: true, Setctty: withPTY}
	if err := l.credential(sys); err != nil {
		return nil, err
	}
	if a.cfg.PreStart != nil {
		done, err := a.cfg.PreStart(sys)
		if err != nil {
			return nil, wire.Errorf(wire.Unavailable, "%v", err)
		}
		defer done()
	}
	attr := &syscall.ProcAttr{
		Dir:   l.dir,
		Env:   l.env,
		Files: []uintptr{io.child[0].Fd(), io.child[1].Fd(), io.child[2].Fd()},
		Sys:   sys,
	}
	child, err := a.cfg.Reaper.Start(func() (int, error) { return syscall.ForkExec(l.path, l.argv, attr) })
	if err != nil {
		return nil, l.startError(err)
	}
	a.oomScore.reset(child.PID())
	return child, nil
}

// credential makes the child the user. An agent that is not root can start
// processes as itself only.
func (l *launch) credential(sys *syscall.SysProcAttr) error {
	if os.Geteuid() == 0 {
		sys.Credential = &syscall.Credential{Uid: l.user.uid, Gid: l.user.gid, Groups: l.user.groups}
		return nil
	}
	if int(l.user.uid) != os.Geteuid() {
		return wire.Errorf(wire.PermissionDenied, "%q: cannot become user %s: the agent is not root", l.argv[0], l.user.name)
	}
	return nil
}

// oomScore undoes for children what protects the agent from the kernel's
// out-of-memory killer: it is inherited.
type oomScore struct {
	once sync.Once
	own  int
}

func (o *oomScore) reset(pid int) {
	o.once.Do(func() {
		b, _ := os.ReadFile("/proc/self/oom_score_adj")
		o.own, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	})
	if o.own != 0 {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0) // the child may have ended
	}
}
