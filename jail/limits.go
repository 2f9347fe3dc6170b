package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// setting is one file of a group and what is written to it.
type setting struct {
	controller, file, value string
	mayLack                 bool // not every kernel has it
}

// limit writes the limits. A missing group is an Unavailable error that names it.
func (g *group) limit(l Limits) error {
	settings, err := g.settings(l)
	if err != nil {
		return err
	}
	for _, s := range settings {
		if err := g.set(s); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) set(s setting) error {
	dir, ok := g.dir(s.controller)
	if !ok {
		return nil // said when the pool was opened
	}
	err := s.write(dir)
	if err == nil || s.mayLack {
		return nil
	}
	if _, gone := os.Stat(dir); errors.Is(gone, fs.ErrNotExist) {
		return dayfly.Errorf(dayfly.Unavailable, "jail: the control group %s was removed by somebody else: keep other programs out of it, and try again", dir)
	}
	if _, gone := os.Stat(filepath.Join(dir, s.file)); errors.Is(gone, fs.ErrNotExist) {
		// In version 2 others can take a controller away, and have not given it yet
		// where they are just making the groups' directory.
		if err = g.tree.places[s.controller].usable(s.controller); err == nil {
			err = s.write(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("jail: limit %s: %w", s.value, err)
	}
	return nil
}

func (s setting) write(dir string) error {
	return os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o644) //nolint:gosec // the file is there, and the kernel's
}

// settings translates limits for the version that each controller has.
func (g *group) settings(l Limits) ([]setting, error) {
	var list []setting
	add := func(controller, v1File, v1, v2File, v2 string) {
		if g.tree.places[controller].v2 {
			list = append(list, setting{controller, v2File, v2, false})
		} else {
			list = append(list, setting{controller, v1File, v1, false})
		}
	}
	if l.CPUs > 0 {
		quota := strconv.FormatInt(cpuQuota(l.CPUs), 10)
		if !g.tree.places["cpu"].v2 {
			list = append(list, setting{"cpu", "cpu.cfs_period_us", strconv.Itoa(cpuPeriod), false})
		}
		add("cpu", "cpu.cfs_quota_us", quota, "cpu.max", quota+" "+strconv.Itoa(cpuPeriod))
	}
	if l.Memory > 0 {
		n := strconv.FormatInt(l.Memory, 10)
		add("memory", "memory.limit_in_bytes", n, "memory.max", n)
		// No swap: what a guest has in memory must not get to a disk.
		if g.tree.places["memory"].v2 {
			list = append(list, setting{"memory", "memory.swap.max", "0", true}, setting{"memory", "memory.oom.group", "1", true})
		} else {
			list = append(list, setting{"memory", "memory.memsw.limit_in_bytes", n, true}, setting{"memory", "memory.swappiness", "0", true})
		}
	}
	if l.Processes > 0 {
		n := strconv.Itoa(l.Processes)
		add("pids", "pids.max", n, "pids.max", n)
	}
	for _, io := range l.IO {
		device, err := disk(io.Path)
		if err != nil {
			return nil, err
		}
		list = append(list, io.settings(device, g.tree.places["io"].v2)...)
	}
	return list, nil
}

func processes(l Limits) int {
	if l.Processes > 0 {
		return l.Processes
	}
	return DefaultProcesses
}

// cpuPeriod is in microseconds. The usual 100 ms would have a machine with a
// quarter of a CPU stand still for 75 ms at a time; below 1 ms the kernel
// accepts no share.
const (
	cpuPeriod   = 20000
	leastQuota  = 1000
	microsecond = 1e6
)

func cpuQuota(cpus float64) int64 { return max(leastQuota, int64(cpus*cpuPeriod)) }

func (l IO) settings(device string, v2 bool) []setting {
	rates := []struct {
		v1, v2 string
		n      int64
	}{
		{"blkio.throttle.read_bps_device", "rbps", l.ReadBytes},
		{"blkio.throttle.write_bps_device", "wbps", l.WriteBytes},
		{"blkio.throttle.read_iops_device", "riops", l.ReadOps},
		{"blkio.throttle.write_iops_device", "wiops", l.WriteOps},
	}
	var list []setting
	line := device
	for _, r := range rates {
		if r.n <= 0 {
			continue
		}
		n := strconv.FormatInt(r.n, 10)
		line += " " + r.v2 + "=" + n
		if !v2 {
			list = append(list, setting{"io", r.v1, device + " " + n, false})
		}
	}
	if v2 && line != device {
		list = append(list, setting{"io", "io.max", line, false})
	}
	return list
}

// disk is the number of the whole disk that the file system of path is on.
func disk(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("jail: io limit: %s: %w", path, err)
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	number := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	sys := "/sys/dev/block/" + number
	if _, err := os.Stat(sys); err != nil {
		return "", dayfly.Errorf(dayfly.Unavailable, "jail: io limit: %s is not on a disk whose traffic the kernel can limit: leave the limit out", path)
	}
	if _, err := os.Stat(sys + "/partition"); err != nil {
		return number, nil
	}
	b, err := os.ReadFile(sys + "/../dev")
	if err != nil {
		return "", fmt.Errorf("jail: io limit: disk of %s: %w", number, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Traffic is what of a process's traffic with a disk this host can bound.
type Traffic int

// What there is of it.
const (
	NoTraffic     Traffic = iota
	DirectTraffic         // what goes past the page cache, and reads that find nothing in it
	AllTraffic            // writes of the page cache too, which the kernel makes later
)

// accounting are file systems that say whose the writes of the page cache are
// (SB_I_CGROUPWB in the kernel).
var accounting = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC}

// Traffic says what Limits.IO can bound of the traffic with the disk of path.
func (p *Pool) Traffic(path string) Traffic {
	if p.off || slices.Contains(p.tree.lacks(), "io") {
		return NoTraffic
	}
	if _, err := disk(path); err != nil {
		return NoTraffic
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || !slices.Contains(accounting, fs.Type) {
		return DirectTraffic
	}
	if !p.tree.places["io"].v2 || !p.tree.places["memory"].v2 { // which says whose a page is
		return DirectTraffic
	}
	return AllTraffic
}

// OutOfMemory reports whether the kernel has killed what runs in the jail, or
// some of it, because it needed more than its limit. Ask before Close.
func (j *Jail) OutOfMemory() bool {
	if j.pool.off {
		return false
	}
	dir, ok := j.group.dir("memory")
	if !ok {
		return false
	}
	for _, file := range []string{"memory.events", "memory.oom_control"} { // of version 2 and 1
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
				return true
			}
		}
	}
	return false
}
