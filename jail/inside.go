package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// A jail that runs can be given other files, where its Spec has Places for them:
// each is a mount, moved in by a thread of ours that has entered the jail's view
// of the file systems. What the jail's user can write to is its Room alone, so
// no path of a place has anything of its making in it; the Room itself is to be
// looked at as if it were an enemy's.

// Bring shows a file to the process that runs, at f.To, which is one of the
// Spec's Places. What was brought there before has to be dropped first. The
// error is Conflict once the process has ended, and those of a Take's files.
func (j *Jail) Bring(f File) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := f.check(); err != nil {
		return err
	}
	if j.closed {
		return errEnded()
	}
	if j.users == nil { // it was adopted
		users, err := mapping(j.uid)
		if err != nil {
			j.pool.log.Debug("no users can be mapped", "err", err) // own does without where it can
		}
		j.users = users
	}
	tree, dir, err := j.open(f)
	if err != nil {
		return err
	}
	defer tree.Close()
	if dir {
		return dayfly.Errorf(dayfly.Invalid, "jail: %s is a directory: only files can be brought to what runs", f.Path)
	}
	attrs := attributes(f.Write)
	if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attrs}); err != nil {
		return fmt.Errorf("jail: bring %s: %w", f.Path, err)
	}
	return j.inside("bring "+f.to(), func() error { return onto(int(tree.Fd()), "", f.to()) })
}

// Shift moves what was brought to one place to another, in place of what is
// there. Should this process die meanwhile, it is at the one or the other.
func (j *Jail) Shift(from, to string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.inside("shift "+from, func() error {
		if err := detach(to); err != nil {
			return err
		}
		return onto(unix.AT_FDCWD, from, to)
	})
}

// Drop takes away what was brought to a place, if there is something. A process
// that has it open keeps that.
func (j *Jail) Drop(at string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.inside("drop "+at, func() error { return detach(at) })
}

// onto mounts a tree, or moves a mount, over a file that is there.
func onto(dirFD int, path, at string) error {
	place, err := unix.Openat2(unix.AT_FDCWD, at, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return err
	}
	defer unix.Close(place)
	flags := unix.MOVE_MOUNT_T_EMPTY_PATH
	if path == "" {
		flags |= unix.MOVE_MOUNT_F_EMPTY_PATH
	}
	return unix.MoveMount(dirFD, path, place, "", flags)
}

// detach unmounts what is at a place; its user keeps what it has open.
func detach(at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) { // nothing is mounted there
		return nil
	}
	return err
}

// inside calls do where paths are those of the process that runs.
func (j *Jail) inside(what string, do func() error) error {
	pidfd, err := j.hold()
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	err = aside(func() error {
		// A thread that shares its working directory with others may not go.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
			return err
		}
		return do()
	})
	if err != nil {
		return fmt.Errorf("jail: %s: %w", what, err)
	}
	return nil
}

// aside calls do on a thread that ends with it, as it cannot be trusted to be
// where all others are. A process's first thread never ends, so it is kept busy
// while another one is found.
func aside(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- do()
			return // without letting go of the thread, which the runtime then ends
		}
		defer runtime.UnlockOSThread()
		result <- aside(do)
	}()
	return <-result
}

func errEnded() error { return dayfly.Errorf(dayfly.Conflict, "jail: nothing runs in it") }

// hold returns a descriptor of the process that runs, which is that and no other.
func (j *Jail) hold() (pidfd int, err error) {
	if j.closed || !j.started || j.pool.off || j.proc == nil {
		return -1, errEnded()
	}
	pidfd, err = unix.PidfdOpen(j.who.pid, 0)
	if err != nil || !j.who.alive() {
		if err == nil {
			unix.Close(pidfd)
		}
		return -1, errors.Join(errEnded(), err)
	}
	return pidfd, nil
}

// Look opens a file or directory of the process that runs, by O_PATH, so that
// what it is can be told before it is used. No symbolic link is followed: in its
// Room the process may have made what it likes.
func (j *Jail) Look(path string) (*os.File, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	pidfd, err := j.hold()
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	root, err := unix.Open("/proc/"+strconv.Itoa(j.who.pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("jail: look: %w", err)
	}
	defer unix.Close(root)
	if !j.who.alive() { // the root may be another process's
		return nil, errEnded()
	}
	rel, err := filepath.Rel("/", path)
	if err != nil {
		return nil, err
	}
	// Not O_NOFOLLOW: with that a link at the end is opened itself (openat2(2)).
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("jail: look at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// roomOptions bound what a Room takes of the host's memory.
var roomOptions = []string{"size=64k", "nr_inodes=32", "mode=0700"}

// furnish makes the Room and the Places, in the jail's root while that can still
// be written to.
func (p *plunge) furnish() error {
	for _, at := range p.Places {
		if err := mountPoint(at, false); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if p.Room == "" {
		return nil
	}
	if err := os.MkdirAll(p.Room, 0o755); err != nil {
		return err
	}
	id := strconv.Itoa(p.uid)
	return mountNew("tmpfs", p.Room, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC,
		slices.Concat(roomOptions, []string{"uid=" + id, "gid=" + id})...)
}

// checkInside refuses a Room and Places that lie in each other or in files.
func (s Spec) checkInside() error {
	all := slices.Clone(s.Places)
	if s.Room != "" {
		all = append(all, s.Room)
	}
	for _, f := range s.Files {
		all = append(all, f.to())
	}
	for i, path := range all {
		if err := checkPath(path); err != nil {
			return err
		}
		for _, ours := range []string{"/proc", "/dev"} {
			if within(path, ours) {
				return dayfly.Errorf(dayfly.Invalid, "jail: %s: %s is the jail's own", path, ours)
			}
		}
		// What lies in a directory that a jail could write to may be a link.
		for _, other := range slices.Concat(all[:i], all[i+1:]) {
			if within(path, other) {
				return dayfly.Errorf(dayfly.Invalid, "jail: %s is in %s, which is in the jail itself: name one of them", path, other)
			}
		}
	}
	return nil
}
