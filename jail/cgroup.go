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
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// controllers are the kinds of limit that control groups have, by their names
// in version 2.
var controllers = []string{"cpu", "io", "memory", "pids"}

// place is where control groups of a kind are made: a directory in a hierarchy
// of version 1 or 2.
type place struct {
	dir string
	v2  bool
}

// tree is where the control groups of all jails lie: <name>/<uid> in each
// hierarchy that has a controller of ours. In version 2 it is below the root of
// what is mounted, not in our own group: machines outlive us, and a group with
// processes of its own can have none below it with controllers. In version 1 it
// is below our own group, so that what bounds us bounds the jails.
type tree struct {
	places  map[string]place // by controller; those that are missing are lacking
	reasons map[string]error // of those that are there and cannot be used
}

// plant finds the hierarchies and makes the groups' directory in each.
func plant(name string) (*tree, error) {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, dayfly.Errorf(dayfly.Invalid, "jail: control group %q: it is one name", name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("jail: control groups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("jail: control groups: %w", err)
	}
	t := &tree{places: map[string]place{}, reasons: map[string]error{}}
	for controller, p := range hierarchies(string(mounts), string(own)) {
		p.dir = filepath.Join(p.dir, name)
		if err := p.usable(controller); err != nil {
			t.reasons[controller] = err
		} else {
			t.places[controller] = p
		}
	}
	return t, nil
}

// hierarchies finds the directory of each controller of ours, by a process's
// mountinfo and cgroup files. A controller of version 1 is not in version 2.
func hierarchies(mounts, own string) map[string]place {
	found := map[string]place{}
	for line := range strings.Lines(mounts) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		const root, point = 3, 4
		if !ok || len(l) <= point || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup2":
			for _, c := range controllers {
				if _, v1 := found[c]; !v1 {
					found[c] = place{dir: l[point], v2: true}
				}
			}
		case "cgroup":
			for _, c := range controllers {
				if old := v1Name(c); slices.Contains(strings.Split(r[2], ","), old) {
					below := strings.TrimPrefix(ownPath(own, old), strings.TrimSuffix(l[root], "/"))
					found[c] = place{dir: filepath.Join(l[point], below)}
				}
			}
		}
	}
	return found
}

// ownPath is our group in the hierarchy of a controller of version 1.
func ownPath(own, controller string) string {
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
			return f[2]
		}
	}
	return "/"
}

func v1Name(controller string) string {
	if controller == "io" {
		return "blkio"
	}
	return controller
}

// usable makes the directory and has the groups in it get the controller.
func (p place) usable(controller string) error {
	if p.v2 {
		above := filepath.Dir(p.dir)
		if err := enable(above, controller); err != nil {
			return err
		}
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if p.v2 {
		return enable(p.dir, controller)
	}
	return nil
}

func enable(dir, controller string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644) //nolint:gosec // the file is there, and the kernel's
}

func (t *tree) lacks() []string {
	var lacks []string
	for _, c := range controllers {
		if _, ok := t.places[c]; !ok {
			lacks = append(lacks, c)
		}
	}
	return lacks
}

// group is the control groups of one jail, one in each hierarchy.
type group struct {
	tree *tree
	name string
}

func (t *tree) group(uid int) *group { return &group{t, strconv.Itoa(uid)} }

func (g *group) dir(controller string) (string, bool) {
	p, ok := g.tree.places[controller]
	return filepath.Join(p.dir, g.name), ok
}

// dirs lists each directory once: in version 2 controllers share one.
func (g *group) dirs() []string {
	var dirs []string
	for _, c := range controllers {
		if dir, ok := g.dir(c); ok && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// make creates the groups and puts a process into them. What is made is not
// taken back on error: remove does that.
func (g *group) make(pid int) error {
	for _, dir := range g.dirs() {
		if err := g.tree.mkdir(dir); err != nil {
			return fmt.Errorf("jail: control group: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil { //nolint:gosec // the file is there, and the kernel's
			return fmt.Errorf("jail: control group: %w", err)
		}
	}
	return nil
}

// mkdir makes one group. The directory of them all goes with the pool that
// closes last, and so may have gone since it was planted.
func (t *tree) mkdir(dir string) (err error) {
	const tries = 3
	for range tries {
		err = os.Mkdir(dir, 0o755)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for controller, p := range t.places {
			if p.dir == filepath.Dir(dir) {
				err = errors.Join(err, p.usable(controller))
			}
		}
	}
	return err
}

// uproot removes the directories if no jail of any pool is in them.
func (t *tree) uproot() {
	for _, dir := range (&group{t, ""}).dirs() {
		_ = unix.Rmdir(dir) // with groups in it, it stays
	}
}

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
		dir, ok := g.dir(s.controller)
		if !ok {
			continue // said when the pool was opened
		}
		err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0o644) //nolint:gosec // the file is there, and the kernel's
		if err == nil || s.mayLack {
			continue
		}
		if _, gone := os.Stat(dir); errors.Is(gone, fs.ErrNotExist) {
			return dayfly.Errorf(dayfly.Unavailable, "jail: the control group %s was removed by somebody else: keep other programs out of it, and try again", dir)
		}
		return fmt.Errorf("jail: limit %s: %w", s.value, err)
	}
	return nil
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

// How often, and how long apart, a group is tried to be removed whose last
// process is just being buried.
const (
	removeTries = 200
	removeEvery = 5 * time.Millisecond
)

// remove kills what may be in the groups and removes them.
func (g *group) remove() error {
	var errs []error
	for _, dir := range g.dirs() {
		errs = append(errs, removeGroup(dir))
	}
	return errors.Join(errs...)
}

func removeGroup(dir string) (err error) {
	for range removeTries {
		err = unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		killGroup(dir)
		time.Sleep(removeEvery)
	}
	return fmt.Errorf("jail: control group %s: %w", dir, err)
}

// killGroup kills the processes of a group, all at once where the kernel can.
func killGroup(dir string) {
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644) == nil { //nolint:gosec // the file is there, and the kernel's
		return
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL) // gone meanwhile
		}
	}
}

// holds reports whether the process is in all groups.
func (g *group) holds(pid int) bool {
	for _, dir := range g.dirs() {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || !slices.Contains(strings.Fields(string(b)), strconv.Itoa(pid)) {
			return false
		}
	}
	return true
}
