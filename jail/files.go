package jail

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// mapping makes the user namespace in which the jail's user is root. Nobody ever
// lives in it: mounts that are mapped by it (mount_setattr(2)) show root's files
// as the jail's user's, and nothing on the disk changes.
//
// A process that stops before its first instruction holds the namespace until
// it is open here. Only the thread that started it may end such a process.
func mapping(uid int) (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	proc, err := os.StartProcess("/proc/self/exe", []string{firstName, "mapping"}, &os.ProcAttr{
		Dir: "/",
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
			Ptrace: true, Pdeathsig: syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/" + strconv.Itoa(proc.Pid) + "/ns/user")
	_ = proc.Kill() // it is stopped, and cannot have gone
	_, waited := proc.Wait()
	if err = errors.Join(err, waited); err != nil {
		return nil, err
	}
	return f, nil
}

// open cuts a file or directory off from the host's tree, so that it can be
// mounted in the jail. A symbolic link in its place is refused.
func (j *Jail) open(f File) (tree *os.File, dir bool, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, f.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, false, dayfly.Errorf(dayfly.Unavailable, "jail: %s, which the machine needs: %w", f.Path, err)
	}
	tree = os.NewFile(uintptr(fd), f.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, false, errors.Join(fmt.Errorf("jail: %s: %w", f.Path, err), tree.Close())
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK {
		return nil, false, errors.Join(dayfly.Errorf(dayfly.Denied, "jail: %s is a symbolic link: name what it leads to", f.Path), tree.Close())
	}
	if f.Own {
		if err := j.own(tree, f, st); err != nil {
			return nil, false, errors.Join(err, tree.Close())
		}
	}
	return tree, kind == unix.S_IFDIR, nil
}

// own shows a file of root's to the jail's user as its own. Where that cannot be
// done the file is given to that user, if nobody else can have it: it stays open
// to be taken back, whatever is at its path by then.
func (j *Jail) own(tree *os.File, f File, st unix.Stat_t) error {
	err := j.mapped(tree)
	if err == nil {
		return nil
	}
	if !f.Write || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "jail: " + f.Path + ": this host or its file system cannot map users, and the file cannot be given away: let all read it, or allow user namespaces", Err: err}
	}
	if err := unix.Fchownat(int(tree.Fd()), "", j.uid, j.uid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("jail: %s: %w", f.Path, err)
	}
	kept, err := duplicate(tree)
	if err != nil {
		return fmt.Errorf("jail: %s: %w", f.Path, err)
	}
	j.owned = append(j.owned, kept)
	return nil
}

// mapped shows a tree that was cut off to the jail's user as its own.
func (j *Jail) mapped(tree *os.File) error {
	if j.users == nil {
		return errors.ErrUnsupported
	}
	how := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(j.users.Fd())}
	return unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &how)
}

// Lend opens a regular file of root's again so that the jail's user may open it
// by its descriptor, as QEMU does with /proc/self/fd. It is opened for reading,
// and for writing if f is. The caller closes it. The error is Unavailable where
// the file system cannot do that.
func (j *Jail) Lend(f *os.File) (*os.File, error) {
	if j.pool.off {
		return duplicate(f)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("jail: lend %s: %w", f.Name(), err)
	}
	tree, flags := -1, 0
	var failed error
	err = raw.Control(func(fd uintptr) {
		if flags, failed = unix.FcntlInt(fd, unix.F_GETFL, 0); failed == nil {
			tree, failed = unix.OpenTree(int(fd), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("jail: lend %s: %w", f.Name(), err)
	}
	t := os.NewFile(uintptr(tree), f.Name())
	defer t.Close()
	if err := j.mapped(t); err != nil {
		return nil, &dayfly.Error{Kind: dayfly.Unavailable, Msg: "jail: lend " + f.Name() + ": this host or its file system cannot map users: let all read the file", Err: err}
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(t.Fd())), flags&unix.O_ACCMODE|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("jail: lend %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
