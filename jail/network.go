package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Within calls do where network devices are those of a network namespace; of nil,
// where they are this process's. do stays on one thread.
func Within(network *os.File, do func() error) error {
	if network == nil {
		return do()
	}
	return aside(func() error {
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("jail: network: %w", err)
		}
		return do()
	})
}

// checkNetwork refuses a namespace in which other things live than machines.
func (s Spec) checkNetwork() error {
	if s.Network == nil {
		return nil
	}
	same, err := isNetwork("self", s.Network)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "jail: network: no network namespace: %w", err)
	}
	if same {
		return dayfly.Errorf(dayfly.Denied, "jail: network: it is this host's: make a network namespace for the machine")
	}
	return nil
}

// isNetwork reports whether a process lives in a network namespace.
func isNetwork(pid string, network *os.File) (bool, error) {
	fi, err := network.Stat()
	if err != nil {
		return false, err
	}
	theirs, err := os.Stat(filepath.Join("/proc", pid, "ns/net"))
	return err == nil && os.SameFile(fi, theirs), err
}

// connected compares the network that the program has with that it was to have.
func (j *Jail) connected(pid int) error {
	if j.spec.Network == nil {
		return nil
	}
	is, err := isNetwork(strconv.Itoa(pid), j.spec.Network)
	if err == nil && !is {
		err = errors.New("its net namespace is not that it was given")
	}
	return err
}

// connect enters the network that the jail is to have, and makes the one device
// by which TAP devices are opened.
func (p *plunge) connect() error {
	if p.network < 0 {
		return nil
	}
	if err := unix.Setns(p.network, unix.CLONE_NEWNET); err != nil {
		return err
	}
	unix.Close(p.network)
	return p.tun()
}

func (p *plunge) tun() error {
	const dev, dir, misc, tun = "/dev", "/dev/net", 10, 200
	readOnly := func(attr *unix.MountAttr) error { return unix.MountSetattr(unix.AT_FDCWD, dev, 0, attr) }
	if err := readOnly(&unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	name := filepath.Join(dir, "tun")
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(misc, tun)))
	}
	if err == nil {
		err = os.Chown(name, p.uid, p.uid)
	}
	return errors.Join(err, readOnly(&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
}
