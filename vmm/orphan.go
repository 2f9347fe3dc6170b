package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Orphans finds machines of one VMM by the command lines of this host's
// processes, whoever launched them: it says which directory a machine has whose
// arguments, each with a NUL behind it, it is given. Its methods are for where no
// living owner can have machines.
type Orphans func(cmdline []byte) (dir string, ok bool)

// maxCmdline bounds what is read of a process's command line. Ours are 3 kB, and
// what they are known by comes first.
const maxCmdline = 64 << 10

// CommandLine reads the arguments of a process, each with a NUL behind it.
func CommandLine(pid int) ([]byte, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCmdline))
}

// List returns the ids of the processes whose machine's directory is dir or
// below it.
func (o Orphans) List(ctx context.Context, dir string) ([]int, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("orphans: %w", err)
	}
	var found []int
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil && o.below(pid, dir) {
			found = append(found, pid)
		}
	}
	return found, nil
}

func (o Orphans) below(pid int, dir string) bool {
	line, err := CommandLine(pid)
	if err != nil {
		return false // gone meanwhile
	}
	of, ok := o(line)
	return ok && (of == dir || strings.HasPrefix(of, strings.TrimSuffix(dir, "/")+"/"))
}

// KillAll kills what List returns and waits until it is gone.
func (o Orphans) KillAll(ctx context.Context, dir string) error {
	pids, err := o.List(ctx, dir)
	for _, pid := range pids {
		err = errors.Join(err, o.Kill(ctx, pid, dir))
	}
	return err
}

// Kill kills one of the processes that List returned for dir and waits until it
// is gone. Should the id belong to another process by now, nothing happens: a
// pidfd is opened first and holds on to one process, so that the look at its
// command line and the signal cannot meet two different ones.
func (o Orphans) Kill(ctx context.Context, pid int, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("orphan %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !o.below(pid, dir) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("orphan %d: %w", pid, err)
	}
	return awaitEnd(ctx, fd)
}

// awaitEnd waits for a process's end. The pidfd is polled in short waits only so
// that ctx is heeded; the end is seen at once.
func awaitEnd(ctx context.Context, pidfd int) error {
	const look = 100 * time.Millisecond
	for {
		p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(look.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("orphan: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
