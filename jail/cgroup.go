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

// usable makes the directory and has the groups in it get the controller. It may
// be called again, as where somebody has taken the controller away.
func (p place) usable(controller string) error {
	if p.v2 {
		above := filepath.Dir(p.dir)
		if err := free(above); err != nil {
			return err
		}
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

// free refuses a group of version 2 that has processes of its own: none below it
// could have limits. The kernel would give it cpu and pids all the same, and from
// then on take no process into any new group below it (cgroup_vet_subtree_control_enable
// and cgroup_is_valid_domain in kernel/cgroup/cgroup.c). The top of the hierarchy
// may have both; it has no type. A container's is a group like any other.
func free(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	if len(b) > 0 {
		return dayfly.Errorf(dayfly.Unavailable, "processes are in the control group %s itself: move them into one below it", dir)
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
