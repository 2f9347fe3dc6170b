package qemu

import (
	"bytes"
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

// maxCmdline bounds what is read of a process's command line. Ours are 3 kB;
// the name comes first.
const maxCmdline = 64 << 10

// Orphans lists the QEMU processes of ours, whoever launched them, whose
// machine's directory is dir or below it, by process id. Call it only where no
// living owner can have machines.
func Orphans(ctx context.Context, dir string) ([]int, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("qemu: orphans: %w", err)
	}
	var found []int
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil && isOurs(pid, dir) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// KillOrphans kills what Orphans lists and waits until it is gone.
func KillOrphans(ctx context.Context, dir string) error {
	pids, err := Orphans(ctx, dir)
	for _, pid := range pids {
		err = errors.Join(err, KillOrphan(ctx, pid, dir))
	}
	return err
}

// KillOrphan kills one of the processes that Orphans listed for dir and waits
// until it is gone. Should the id belong to another process by now, nothing
// happens: a pidfd is opened first and holds on to one process, so that the
// look at its command line and the signal cannot meet two different ones.
func KillOrphan(ctx context.Context, pid int, dir string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("qemu: orphan %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !isOurs(pid, dir) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("qemu: orphan %d: %w", pid, err)
	}
	return waitGone(ctx, fd)
}

// waitGone waits for a process's end. The pidfd is polled in short waits only
// so that ctx is heeded; the end is seen at once.
func waitGone(ctx context.Context, fd int) error {
	const look = 100 * time.Millisecond
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(look.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("qemu: orphan: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func isOurs(pid int, dir string) bool {
	line, err := commandLine(pid)
	if err != nil {
		return false // gone meanwhile
	}
	_, of, ok := machineName(line)
	return ok && (of == dir || strings.HasPrefix(of, strings.TrimSuffix(dir, "/")+"/"))
}

// commandLine reads the arguments of a process, each with a NUL behind it.
func commandLine(pid int) ([]byte, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCmdline))
}

// machineName is the id and the directory in the -name of a machine of ours,
// which is the first option on its command line.
func machineName(cmdline []byte) (id, dir string, ok bool) {
	args := bytes.SplitN(cmdline, []byte{0}, 4)
	if len(args) < 4 || string(args[1]) != "-name" {
		return "", "", false
	}
	name, ok := strings.CutPrefix(string(args[2]), "guest="+nameMark)
	if !ok {
		return "", "", false
	}
	id, dir, ok = strings.Cut(strings.ReplaceAll(name, ",,", ","), ":")
	return id, dir, ok && filepath.IsAbs(dir)
}
