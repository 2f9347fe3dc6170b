package boot

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// The cgroup2 hierarchy: the workspace's processes start in one child of the
// root, and make more of them wherever they like. This program stays in the root.
const (
	cgroupDir  = "/sys/fs/cgroup"
	workGroup  = "workspace"
	hooksGroup = "dayfly-renew" // of the hooks, which run while all else is frozen
)

// freezeDeadline is how long processes may take to freeze. Only one that the
// kernel cannot stop right now takes more than a moment.
const freezeDeadline = 5 * time.Second

// cgroups is the hierarchy as this program uses it. Its methods may be called
// at the same time, but for freeze and thaw, which System calls in turn.
type cgroups struct {
	mu     sync.RWMutex // read over every fork, so that none is frozen half way
	frozen bool
	top    int // descriptors of the root and the workspace's; -1 where the kernel has no cgroup2
	work   int
}

// open makes the workspace's group.
func (g *cgroups) open() error {
	top, err := unix.Open(cgroupDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	work := -1
	if err = unix.Mkdirat(top, workGroup, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
		work, err = unix.Openat(top, workGroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		unix.Close(top)
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.top, g.work = top, work
	return nil
}

// close undoes open.
func (g *cgroups) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.top < 0 {
		return nil
	}
	err := unix.Unlinkat(g.top, workGroup, unix.AT_REMOVEDIR)
	unix.Close(g.work)
	unix.Close(g.top)
	g.top, g.work = -1, -1
	return err
}

// PreStart puts a process that is about to be started into the workspace's
// group. While the workspace is frozen it is refused: the process could not even
// begin. The caller calls done when it has forked.
func (s *System) PreStart(sys *syscall.SysProcAttr) (done func(), err error) {
	g := &s.groups
	g.mu.RLock()
	if g.frozen {
		g.mu.RUnlock()
		return nil, dayfly.Errorf(dayfly.Unavailable, "the workspace is frozen: no process starts until it is thawed")
	}
	if g.work >= 0 {
		sys.UseCgroupFD, sys.CgroupFD = true, g.work
	}
	return g.mu.RUnlock, nil
}

// freeze stops every process outside this program's own group and returns how
// many there are. An error leaves none stopped.
func (g *cgroups) freeze(ctx context.Context) (n int, err error) {
	if g.top < 0 {
		return 0, dayfly.Errorf(dayfly.Unavailable, "the guest's kernel has no cgroup2, so its processes cannot be frozen: boot one that has (make kernel)")
	}
	g.mu.Lock() // waits for what is being started
	g.frozen = true
	g.mu.Unlock()
	deadline := time.Now().Add(freezeDeadline)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	seen := map[string]bool{}
	for {
		added, err := g.freezeNew(seen, deadline)
		if err != nil {
			return 0, errors.Join(err, g.thaw())
		}
		if !added { // a process that was not frozen yet made no group meanwhile
			break
		}
	}
	for name := range seen {
		n += g.count(name)
	}
	return n, nil
}

// freezeNew freezes the groups that are not in seen, and says whether there
// were any.
func (g *cgroups) freezeNew(seen map[string]bool, deadline time.Time) (added bool, err error) {
	names, err := g.children()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if seen[name] {
			continue
		}
		if err := g.write(name+"/cgroup.freeze", "1"); err != nil && !errors.Is(err, unix.ENOENT) {
			return false, dayfly.Errorf(dayfly.Unavailable, "cgroup %q cannot be frozen: %v", name, err)
		}
	}
	for _, name := range names {
		if seen[name] {
			continue
		}
		if err := g.await(name, deadline); err != nil {
			return false, err
		}
		seen[name], added = true, true
	}
	return added, nil
}

// await waits until a group is frozen.
func (g *cgroups) await(name string, deadline time.Time) error {
	fd, err := unix.Openat(g.top, name+"/cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // it was empty, and is gone
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var b [256]byte
	for {
		n, err := unix.Pread(fd, b[:], 0)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.Contains(string(b[:n]), "frozen 1") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return dayfly.Errorf(dayfly.Unavailable, "cgroup %q did not freeze within %s: one of its processes waits in the kernel; try again when it has done so", name, freezeDeadline)
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}} // kernfs tells of a change so
		if _, err := unix.Poll(p, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// thaw lets all groups go on, and then new processes start.
func (g *cgroups) thaw() error {
	var errs []error
	if g.top >= 0 {
		names, err := g.children()
		errs = append(errs, err)
		for _, name := range names {
			if err := g.write(name+"/cgroup.freeze", "0"); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, dayfly.Errorf(dayfly.Unavailable, "cgroup %q cannot be thawed: %v", name, err))
			}
		}
	}
	g.mu.Lock()
	g.frozen = false
	g.mu.Unlock()
	return errors.Join(errs...)
}

// children are the groups below the root but for the hooks'. Usually there is
// one, which the link count tells without a look inside.
func (g *cgroups) children() ([]string, error) {
	if subdirs(g.top) == 1 {
		return []string{workGroup}, nil
	}
	entries, err := g.entries(".")
	if err != nil {
		return nil, err
	}
	names := entries[:0]
	for _, name := range entries {
		if name != hooksGroup {
			names = append(names, name)
		}
	}
	return names, nil
}

// entries are the groups in a group.
func (g *cgroups) entries(name string) ([]string, error) {
	fd, err := unix.Openat(g.top, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	list, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// subdirs is how many groups a group has, or -1 where that is not known: kernfs
// counts a directory's subdirectories in its links (kernfs_refresh_inode).
func subdirs(fd int) int {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Nlink < 2 {
		return -1
	}
	return int(st.Nlink) - 2
}

// count is the number of processes in a group and below it.
func (g *cgroups) count(name string) (n int) {
	b, _ := g.read(name + "/cgroup.procs") // a threaded group has none of its own
	n = strings.Count(b, "\n")
	fd, err := unix.Openat(g.top, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return n
	}
	below := subdirs(fd)
	unix.Close(fd)
	if below == 0 {
		return n
	}
	names, _ := g.entries(name)
	for _, sub := range names {
		n += g.count(name + "/" + sub)
	}
	return n
}

func (g *cgroups) write(path, text string) error {
	fd, err := unix.Openat(g.top, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// read returns a file of the hierarchy, whose size the kernel bounds.
func (g *cgroups) read(path string) (string, error) {
	fd, err := unix.Openat(g.top, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var all []byte
	b := make([]byte, 4<<10)
	for {
		n, err := unix.Read(fd, b)
		if err != nil || n <= 0 {
			return string(all), err
		}
		all = append(all, b[:n]...)
	}
}
