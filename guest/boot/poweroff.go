package boot

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// stopGrace is how long processes get between being asked to end and being
// killed.
const stopGrace = 3 * time.Second

// Poweroff ends every process, writes the disk out and powers the machine off.
// It returns only on error.
func (s *System) Poweroff(ctx context.Context) error {
	if err := s.Thaw(ctx, wire.Thaw{}); err != nil { // the frozen could not end in order
		return err
	}
	if err := s.endProcesses(ctx); err != nil {
		return err
	}
	if err := s.freezeDisk(); err != nil {
		return err
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// fiFreeze is FIFREEZE of include/uapi/linux/fs.h.
const fiFreeze = 0xc0045877

// freezeDisk writes everything out and leaves the disk as if unmounted: the
// root above it stays busy as long as this program runs.
func (s *System) freezeDisk() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disk == nil {
		return nil
	}
	if err := unix.IoctlSetInt(int(s.disk.Fd()), fiFreeze, 0); err != nil {
		return fmt.Errorf("freeze disk: %w", err)
	}
	return nil
}

// endProcesses asks all processes to end, waits until they are gone or the
// grace is over, and kills the rest. Signals to -1 reach everyone but pid 1.
func (s *System) endProcesses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	if unix.Kill(-1, unix.SIGTERM) == unix.ESRCH {
		return nil
	}
	_ = unix.Kill(-1, unix.SIGCONT) // a stopped process can act on nothing
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alone := false; !alone; alone = onlyKernelThreads() {
		select {
		case <-ctx.Done():
			_ = unix.Kill(-1, unix.SIGKILL)
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// onlyKernelThreads reports whether pid 1 is the last process of user space.
func onlyKernelThreads() bool {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, d := range dirs {
		if d.Name() == "1" || d.Name()[0] < '0' || d.Name()[0] > '9' {
			continue
		}
		if exe, err := os.Readlink("/proc/" + d.Name() + "/exe"); err == nil && exe != "" {
			return false
		}
	}
	return true
}
