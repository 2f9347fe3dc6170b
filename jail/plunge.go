package jail

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// plunge is the first process on its way to be the VMM.
type plunge struct {
	*start
	uid     int
	control int
	files   []int // the program's, by the number they are to have
	network int   // -1: it stays where it is
	mounts  []int
}

// gather moves all descriptors above those that the program is to have.
func (p *plunge) gather(fds []int) error {
	least := len(fds) + 16
	up := func(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, least) }
	control, err := up(controlFD)
	if err != nil {
		return err
	}
	p.control = control
	for i, fd := range fds {
		moved, err := up(fd)
		if err != nil {
			return err
		}
		unix.Close(fd)
		switch {
		case i < p.Files:
			p.files = append(p.files, moved)
		case i == p.Files && p.Network:
			p.network = moved
		default:
			p.mounts = append(p.mounts, moved)
		}
	}
	return nil
}

// attach mounts what the caller brought. Nothing in it can be run.
func (p *plunge) attach() error {
	for i, m := range p.Mounts {
		if err := put(p.mounts[i], m.To, m.Dir, attributes(m.Write)); err != nil {
			return fmt.Errorf("%s: %w", m.To, err)
		}
		unix.Close(p.mounts[i])
	}
	return nil
}

// attributes are those of a mount that the caller brought.
func attributes(write bool) uint64 {
	attrs := uint64(unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if !write {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	return attrs
}

// bound sets the limits that every process has, whatever control groups there
// are. A limit that is lower already stays.
func (c *start) bound() error {
	fileSize := c.FileSize
	if fileSize == 0 {
		fileSize = math.MaxUint64
	}
	for _, l := range []struct {
		what int
		most uint64
	}{
		{unix.RLIMIT_CORE, 0}, // a dump would put the guest's secrets into a file
		{unix.RLIMIT_NOFILE, c.OpenFiles},
		{unix.RLIMIT_FSIZE, fileSize},
		{unix.RLIMIT_NPROC, c.Processes},
		{unix.RLIMIT_MEMLOCK, 0},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_NICE, 0},
		{unix.RLIMIT_RTPRIO, 0},
		{unix.RLIMIT_SIGPENDING, 1024},
	} {
		var old unix.Rlimit
		if err := unix.Prlimit(0, l.what, nil, &old); err != nil {
			return err
		}
		most := min(l.most, old.Max)
		if err := unix.Prlimit(0, l.what, &unix.Rlimit{Cur: most, Max: most}, nil); err != nil {
			return err
		}
	}
	// A file that would grow too large is then an error of that write, which the
	// guest sees as one of its disk's, and not the VMM's end.
	signal.Ignore(unix.SIGXFSZ)
	return nil
}

// dropBounding leaves no capability that a program could get back by being
// started.
func dropBounding() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // beyond the last that this kernel has
		}
		if err != nil {
			return err
		}
	}
	const noRoot, noAmbient = 1<<0 | 1<<1, 1<<6 | 1<<7 // each with its lock (capabilities(7))
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECUREBITS, noRoot|noAmbient, 0, 0, 0)
}

// switchUser takes the jail's user for this thread alone: package syscall's
// functions of these names would stop all others first.
func switchUser(uid int) error {
	id := uintptr(uid)
	for _, call := range []struct{ nr, a, b, c uintptr }{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, id, id, id},
		{unix.SYS_SETRESUID, id, id, id},
	} {
		if _, _, errno := unix.RawSyscall(call.nr, call.a, call.b, call.c); errno != 0 {
			return errno
		}
	}
	return nil
}

// dropCapabilities clears all sets. The change of user has cleared those that
// count; the inheritable one it leaves.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// reach names what the jail's user has no way to, which the program would say
// less clearly.
func (c *start) reach() error {
	need := func(path string, how uint32) error {
		if err := unix.Faccessat(unix.AT_FDCWD, path, how, unix.AT_EACCESS); err != nil {
			return fmt.Errorf("%s: the jail's user may not use it: %w", path, err)
		}
		return nil
	}
	if err := need(c.Program, unix.R_OK|unix.X_OK); err != nil {
		return err
	}
	if c.Room != "" {
		if err := need(c.Room, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
			return err
		}
	}
	for _, m := range c.Mounts {
		how := uint32(unix.R_OK)
		if m.Write {
			how |= unix.W_OK
		}
		if m.Dir {
			how |= unix.X_OK
		}
		if err := need(m.To, how); err != nil {
			return err
		}
	}
	return nil
}

// bindToOwner has the kernel kill the VMM with the thread that started it,
// unless it is to outlive that. The change of user has unbound it.
func (p *plunge) bindToOwner() error {
	signal := uintptr(unix.SIGKILL)
	if p.Orphan {
		signal = 0
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, signal, 0, 0, 0); err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(p.control), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0 {
		return io.EOF // it died before
	}
	return nil
}

// arrange gives the program's descriptors their numbers and has all others
// closed when it begins. From here on nothing may use Go's own descriptors.
func (p *plunge) arrange() error {
	for want, fd := range p.files {
		if err := unix.Dup3(fd, want, 0); err != nil {
			return err
		}
	}
	return unix.CloseRange(uint(len(p.files)), math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
}

// exec takes the last step. The filter is the last thing to be put on, as it
// refuses what came before.
func (p *plunge) exec() error {
	path, err := unix.BytePtrFromString(p.Program)
	if err != nil {
		return err
	}
	args, err := syscall.SlicePtrFromStrings(p.Args)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(p.Env)
	if err != nil {
		return err
	}
	listener, err := install()
	if err == nil {
		err = send(p.control, answer{Final: true}, []int{listener})
	}
	if err == nil {
		_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&env[0])))
		err = fmt.Errorf("%s: %w", p.Program, errno)
	}
	_ = send(p.control, answer{Error: err.Error()}, nil)
	unix.Exit(1)
	return nil
}
