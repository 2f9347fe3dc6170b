package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// usage is what a VMM takes of the host's memory, in KiB.
type usage struct {
	pss     int64 // a page that several processes have counts for its part in each
	written int64 // of that: pages of the guest that it has written itself
}

func (s *server) usage(ctx context.Context, id dayfly.ID) (u usage, err error) {
	pids, err := qemu.Orphans(ctx, filepath.Join(s.bed.dir, "workspaces", string(id)))
	if err != nil {
		return u, err
	}
	if len(pids) != 1 {
		return u, fmt.Errorf("workspace %s has %d VMM processes", id, len(pids))
	}
	proc := filepath.Join("/proc", strconv.Itoa(pids[0]))
	sum, err := fieldOf(filepath.Join(proc, "smaps_rollup"), "Pss:", func(int64) bool { return true })
	if err != nil {
		return u, err
	}
	written, err := fieldOf(filepath.Join(proc, "smaps"), "Anonymous:", isRAM)
	return usage{sum, written}, err
}

// isRAM says whether a mapping of a VMM is its guest's RAM, by its bytes: it is a
// private one of a file, which in a jail has no name. A page of it that was
// written is anonymous.
func isRAM(bytes int64) bool { return bytes == dayfly.DefaultMemoryMiB<<20 }

func fieldOf(file, field string, of func(bytes int64) bool) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return sumField(f, field, of)
}

// lengthOf is how many bytes a range of addresses has.
func lengthOf(span string) (int64, error) {
	from, to, _ := strings.Cut(span, "-")
	begin, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return 0, err
	}
	end, err := strconv.ParseUint(to, 16, 64)
	return int64(end - begin), err
}

// sumField adds up a field of the mappings that are asked for: proc_pid_smaps(5).
func sumField(smaps io.Reader, field string, of func(bytes int64) bool) (kib int64, err error) {
	found, counts := false, false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"): // range, mode, offset, device, inode, path
			bytes, err := lengthOf(f[0])
			if err != nil {
				return 0, err
			}
			counts = of(bytes)
			found = found || counts
		case counts && len(f) >= 2 && f[0] == field:
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, err
			}
			kib += n
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, errors.New("smaps: no such mapping")
	}
	return kib, nil
}
