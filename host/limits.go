package host

import (
	"math"
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
)

// unlimited is a limit that is none.
const unlimited = math.MaxInt64

// hardLimit is a hard limit of /proc/self/limits, by its name there.
func hardLimit(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		w := strings.Fields(rest)
		if len(w) < 2 {
			return 0, false
		}
		return limit(w[1])
	}
	return 0, false
}

// limit reads a number, "unlimited" as of rlimits, or "max" as of groups.
func limit(s string) (int64, bool) {
	if s == "unlimited" || s == "max" {
		return unlimited, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0
}

// ceiling is one of several limits on the same thing.
type ceiling struct {
	name   string
	most   int64 // of the host's unit: threads, descriptors
	used   int64
	each   int64 // of it, for each workspace
	remedy string
}

// room is how many workspaces still fit.
func (c ceiling) room() int64 { return max(c.most-c.used, 0) / c.each }

// lowest judges ceilings by how many of the smallest workspaces the host's
// memory has room for, and the kind of thing that runs out first.
func (h Host) lowest(thing string, list []ceiling) dayfly.Check {
	var low *ceiling
	for i := range list {
		if list[i].most != unlimited && (low == nil || list[i].room() < low.room()) {
			low = &list[i]
		}
	}
	if low == nil {
		return good("no limit")
	}
	want := max(kib(h.word("proc/meminfo"), "MemTotal")>>10/dayfly.MinMemoryMiB, 1)
	room := low.room()
	f := finding{
		detail: low.name + " is " + strconv.FormatInt(low.most, 10) + ", and " + strconv.FormatInt(low.used, 10) + " are in use",
		cost:   "room for " + strconv.FormatInt(room, 10) + " more workspaces, where memory has room for " + strconv.FormatInt(want, 10),
		remedy: low.remedy,
	}
	switch {
	case room < 1:
		return broken(f)
	case room < want:
		return lacking(f)
	}
	return good("%s for more workspaces than memory has room for (%s is %d)", thing, low.name, low.most)
}
