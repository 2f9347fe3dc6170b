package needs

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cgroup is what a controller that is lacking counts as; which one is needed is
// said by the test.
var cgroup = &capability{name: "cgroup", remedy: "run as root where control groups can be written to", probe: func() (string, error) { return "", nil }}

var jail = &capability{name: "jail", remedy: "run as root with CAP_SYS_ADMIN on Linux 5.12 or newer", probe: probeJail}

// Jail needs the right to make the namespaces and mounts of a jail.
func Jail(t testing.TB) { t.Helper(); jail.require(t) }

// Controller needs a kind of limit that the host's control groups offer; lacks
// are those it does not.
func Controller(t testing.TB, name string, lacks []string) {
	t.Helper()
	c := &capability{name: cgroup.name, remedy: cgroup.remedy, probe: func() (string, error) {
		if slices.Contains(lacks, name) {
			return "", fmt.Errorf("no %s controller", name)
		}
		return "", nil
	}}
	c.require(t)
}

// probeJail starts a program in namespaces like those of a jail.
func probeJail() (string, error) {
	if _, err := probeMount(); err != nil {
		return "", err
	}
	c := exec.CommandContext(context.Background(), "/proc/self/exe", "-test.run=^$")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET}
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("making namespaces: %w", err)
	}
	return "", nil
}
