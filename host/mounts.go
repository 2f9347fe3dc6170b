package host

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// mount is a line of /proc/self/mountinfo, proc(5).
type mount struct {
	point, fs string
	options   []string // of the file system, not of this mount of it
}

// mounts reads mountinfo. Lines of another form are left out.
func mounts(text string) []mount {
	var list []mount
	for line := range strings.Lines(text) {
		front, back, ok := strings.Cut(line, " - ")
		before, after := strings.Fields(front), strings.Fields(back)
		if !ok || len(before) < 6 || len(after) < 3 {
			continue
		}
		list = append(list, mount{unescape(before[4]), after[0], strings.Split(after[2], ",")})
	}
	return list
}

// unescape turns \040 and the like back into the byte that they stand for.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// groups are the mounted hierarchies of control groups.
func (h Host) groups() []mount {
	return slices.DeleteFunc(mounts(h.word("proc/self/mountinfo")), func(m mount) bool {
		return m.fs != "cgroup" && m.fs != "cgroup2"
	})
}

// membership is a line of /proc/self/cgroup, cgroups(7).
type membership struct {
	controllers []string // none: version 2
	path        string
}

func memberships(text string) []membership {
	var list []membership
	for line := range strings.Lines(text) {
		part := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		if len(part) != 3 || !strings.HasPrefix(part[2], "/") {
			continue
		}
		m := membership{path: part[2]}
		if part[1] != "" {
			m.controllers = strings.Split(part[1], ",")
		}
		list = append(list, m)
	}
	return list
}

// groupDirs are the directories of this process's groups that have a
// controller, each from its own up to the root of the hierarchy.
func (h Host) groupDirs(controller string) []string {
	all := h.groups()
	var dirs []string
	for _, m := range memberships(h.word("proc/self/cgroup")) {
		for _, g := range all {
			if m.controllers == nil && g.fs == "cgroup2" ||
				g.fs == "cgroup" && slices.Contains(m.controllers, controller) && slices.Contains(g.options, controller) {
				dirs = append(dirs, upwards(g.point, m.path)...)
				break
			}
		}
	}
	return dirs
}

// upwards lists a group's directory and those above it. A path that climbs out
// of its hierarchy, as in a container, is the root.
func upwards(point, group string) []string {
	group = path.Clean(group)
	if strings.Contains(group, "..") {
		group = "/"
	}
	var dirs []string
	for ; group != "/"; group = path.Dir(group) {
		dirs = append(dirs, path.Join(point, group))
	}
	return append(dirs, point)
}
