package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
)

// Use is what a workspace takes of its host.
type Use struct {
	CPU    time.Duration // processor time that its VMM has had since Since
	Memory int64         // bytes of RAM; what it shares with others, by its share
	Disk   int64         // bytes on the disk of all that it keeps; layers it shares count whole
	Since  time.Time     // when the VMM started; zero: there is none
}

// HostUse measures a workspace of this process. Without a machine only Disk is known.
func (n *Node) HostUse(_ context.Context, id dayfly.ID) (Use, error) {
	n.mu.Lock()
	w := n.own[id]
	n.mu.Unlock()
	if w == nil {
		if _, err := readRecord(n.Dir, id); err != nil {
			return Use{}, err
		}
	}
	var u Use
	var err error
	if u.Disk, err = blocks(workspaceDir(n.Dir, id)); err != nil {
		return Use{}, err
	}
	if w == nil || w.state() != dayfly.Running {
		return u, nil
	}
	if m := w.machine.Load(); m != nil {
		u.ofProcess((*m).PID())
	}
	return u, nil
}

// blocks is the size on the disk of the regular files below a directory.
func blocks(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile
			}
			return err
		}
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() {
			return nil //nolint:nilerr // removed meanwhile
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			const unit = 512 // of st_blocks, whatever the file system's is
			bytes += st.Blocks * unit
		}
		return nil
	})
	return bytes, err
}

// userHZ is the unit of times in /proc/PID/stat, the same on every Linux that Go
// runs on (sysconf(_SC_CLK_TCK)).
const userHZ = 100

// ofProcess fills in what /proc says of a process. Of one that has ended
// meanwhile nothing is known.
func (u *Use) ofProcess(pid int) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return
	}
	// The name, which may hold anything, is in the last parentheses.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime, start = 11, 12, 19 // proc_pid_stat(5), counted from the state
	if len(f) <= start {
		return
	}
	u.CPU = ticks(f[utime]) + ticks(f[stime])
	var up float64 // seconds
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		if _, err := fmt.Sscan(string(b), &up); err == nil {
			u.Since = time.Now().Add(ticks(f[start]) - time.Duration(up*float64(time.Second)))
		}
	}
	rollup, _ := os.ReadFile(filepath.Join(proc, "smaps_rollup"))
	for line := range strings.Lines(string(rollup)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			u.Memory = kib << 10
		}
	}
}

func ticks(s string) time.Duration {
	n, _ := strconv.ParseInt(s, 10, 64)
	return time.Duration(n) * (time.Second / userHZ)
}

// Console returns the last of what the guest wrote to its boot console, at most
// vmm.ConsoleBytes. Of a workspace that has no machine it is what the last one
// wrote, if that was this process's. The guest is hostile: quote it.
func (n *Node) Console(_ context.Context, id dayfly.ID) ([]byte, error) {
	n.mu.Lock()
	w := n.own[id]
	n.mu.Unlock()
	if w == nil {
		_, err := readRecord(n.Dir, id)
		return nil, err
	}
	m := w.machine.Load()
	if m == nil {
		return nil, nil
	}
	return (*m).Console(), nil
}
