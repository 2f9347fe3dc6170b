package needs

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var jail = &capability{name: "jail", remedy: "run as root with CAP_SYS_ADMIN on Linux 5.14 or newer", probe: probeJail}

// Jail needs the right to make the namespaces and mounts of a jail.
func Jail(t testing.TB) { t.Helper(); jail.require(t) }

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
