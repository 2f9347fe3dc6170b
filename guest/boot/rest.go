package boot

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Rest writes the disk out and lets it stand still until a Renew with a DiskKey,
// so that what is on it is all there is of it. It is for machines in which no
// process of a user's has run; what a host has run there must have ended.
func (s *System) Rest(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.done == nil:
		return errEmpty()
	case s.resting:
		return nil
	case !await(onlyKernelThreads):
		return dayfly.Errorf(dayfly.Conflict, "rest: processes run")
	}
	if err := unix.Syncfs(int(s.disk.Fd())); err != nil {
		return fmt.Errorf("rest: %w", err)
	}
	if err := suspend(cryptDev); err != nil {
		return err
	}
	s.resting = true
	return nil
}

// renewBootID covers the boot id of a kernel that was restored: other machines
// have it, too.
func (s *System) renewBootID() error {
	r := &renewing{sys: s, run: runDir}
	return r.coverBootID(newUUID() + "\n")
}
