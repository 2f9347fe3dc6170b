package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hostName is what a jail calls its host.
const hostName = "jail"

// build makes the jail's root in this process's own view of the file systems
// and leaves the host's behind.
func (s *setup) build() error {
	return run([]step{
		{"mounts", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"host name", func() error { return unix.Sethostname([]byte(hostName)) }},
		{"domain name", func() error { return unix.Setdomainname([]byte("(none)")) }},
		{"root", func() error {
			return mountNew("tmpfs", s.Top, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "size=1m", "nr_inodes=2000", "mode=0755")
		}},
		{"links", s.link},
		{"program", s.bind},
		{"devices", s.devices},
		{"proc", s.proc},
		{"new root", s.pivot},
	})
}

// mountNew mounts a new file system. Options are key=value.
func mountNew(kind, at string, attrs int, options ...string) error {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, o := range options {
		key, value := cutOption(o)
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("%s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func cutOption(o string) (key, value string) {
	for i := range len(o) {
		if o[i] == '=' {
			return o[:i], o[i+1:]
		}
	}
	return o, ""
}

func (s *setup) link() error {
	for name, to := range s.Links {
		if err := os.Symlink(to, filepath.Join(s.Top, name)); err != nil {
			return err
		}
	}
	return nil
}

// bind brings the program, its libraries and data, each as a mount of its own,
// so that nothing beside them is there.
func (s *setup) bind() error {
	for _, b := range s.Binds {
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.From, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("%s: %w", b.From, err)
		}
		attrs := uint64(unix.MOUNT_ATTR_RDONLY)
		if !b.Exec {
			attrs |= unix.MOUNT_ATTR_NOEXEC
		}
		err = put(fd, filepath.Join(s.Top, b.To), b.Dir, attrs)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%s: %w", b.To, err)
		}
	}
	return nil
}

// put mounts a tree that was cut off from the host at a place that is made for
// it. No set-user bit and no device in it counts.
func put(fd int, at string, dir bool, attrs uint64) error {
	if err := mountPoint(at, dir); err != nil {
		return err
	}
	set := unix.MountAttr{Attr_set: attrs | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &set); err != nil {
		return err
	}
	return unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func mountPoint(at string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if dir {
		return os.MkdirAll(at, 0o755)
	}
	f, err := os.OpenFile(at, os.O_RDONLY|os.O_CREATE, 0o444) //nolint:gosec // an empty file to mount over
	if err != nil {
		return err
	}
	return f.Close()
}

// devices makes those that a VMM needs, in a file system of their own: the only
// one in the jail where device files count.
func (s *setup) devices() error {
	dev := filepath.Join(s.Top, "dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	if err := mountNew("tmpfs", dev, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, "size=4k", "nr_inodes=10", "mode=0755"); err != nil {
		return err
	}
	const memory, misc = 1, 10
	list := []struct {
		name         string
		major, minor uint32
		mode         uint32
	}{
		{"null", memory, 3, 0o666},
		{"urandom", memory, 9, 0o444},
		{"kvm", misc, 232, 0o600},
	}
	for _, d := range list {
		if d.name == "kvm" && !s.KVM {
			continue
		}
		name := filepath.Join(dev, d.name)
		if err := unix.Mknod(name, unix.S_IFCHR|d.mode, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		if err := errors.Join(os.Chmod(name, os.FileMode(d.mode)), os.Chown(name, 0, s.UID)); err != nil {
			return err
		}
		if d.name == "kvm" {
			if err := os.Chown(name, s.UID, s.UID); err != nil {
				return err
			}
		}
	}
	return unix.MountSetattr(unix.AT_FDCWD, dev, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// proc shows this namespace's processes and nothing of the system: QEMU opens
// its descriptors again by /proc/self/fd.
func (s *setup) proc() error {
	at := filepath.Join(s.Top, "proc")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	return mountNew("proc", at, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_RDONLY, "subset=pid", "hidepid=invisible")
}

// pivot makes the root the root, and lets go of all mounts of the host's.
func (s *setup) pivot() error {
	if err := unix.Chdir(s.Top); err != nil {
		return err
	}
	// Both in one place: the old root then lies over the new one (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// closeRoot leaves no place to write to but what was brought for it.
func closeRoot() error {
	return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
