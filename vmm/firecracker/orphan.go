package firecracker

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

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm"
)

// nameMark begins the argv[0] of every machine of ours, which goes on with the
// id and the directory: what Orphans looks for.
const nameMark = "firecracker:dayfly:"

func processName(c vmm.Config) string { return nameMark + c.ID + ":" + c.Dir }

// maxName bounds what is read of a command line.
const maxName = 64 << 10

// Orphans lists the Firecracker processes of ours, whoever launched them, whose
// machine's directory is dir or below it, by process id. Call it only where no
// living owner can have machines.
func Orphans(ctx context.Context, dir string) ([]int, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("firecracker: orphans: %w", err)
	}
	var found []int
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if of, ok := dirOf(pid); ok && within(of, dir) {
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
func KillOrphan(ctx context.Context, pid int, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	pidfd, err := openPidfd(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("firecracker: orphan %d: %w", pid, err)
	}
	p, err := attach(pid, pidfd)
	if err != nil {
		return fmt.Errorf("firecracker: orphan %d: %w", pid, err)
	}
	defer p.forget()
	if of, ok := dirOf(pid); !ok || !within(of, dir) {
		return nil
	}
	p.signal()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dirOf is the directory in the argv[0] of a machine of ours.
func dirOf(pid int) (string, bool) { return machineDir(processOf(pid)) }

// processOf is the argv[0] of a process, or nothing.
func processOf(pid int) string {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return "" // gone meanwhile
	}
	defer f.Close()
	line, err := io.ReadAll(io.LimitReader(f, maxName))
	first, _, whole := bytes.Cut(line, []byte{0})
	if err != nil || !whole {
		return ""
	}
	return string(first)
}

// machineDir is the directory in the name of a machine's process.
func machineDir(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, nameMark)
	if !ok {
		return "", false
	}
	_, dir, ok := strings.Cut(rest, ":")
	return dir, ok && filepath.IsAbs(dir)
}
