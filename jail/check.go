package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// Check says what of a jail this host offers, by setting one up, and which
// limits hold in it. The running program must call Enter, or o name one that
// does.
func Check(ctx context.Context, o Options) []dayfly.Check {
	return []dayfly.Check{CheckJail(ctx, o), CheckLimits(o)}
}

// CheckJail says whether this host can set a jail up.
func CheckJail(ctx context.Context, o Options) dayfly.Check {
	c := dayfly.Check{Name: "jail"}
	began := time.Now()
	if err := try(ctx, o); err != nil {
		c.Status, c.Detail = dayfly.Lacking, "machines run with the rights of dayfly: "+err.Error()
		c.Remedy = "run as root with all capabilities, on Linux 5.12 or newer with seccomp and namespaces"
		return c
	}
	c.Status, c.Detail = dayfly.Good, fmt.Sprintf("one was set up in %d ms", time.Since(began).Milliseconds())
	return c
}

// try sets a jail up and throws it away.
func try(ctx context.Context, o Options) (err error) {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := Open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	j, err := p.Take(ctx, Spec{Shape: Shape{Program: path}})
	if err != nil {
		return err
	}
	return j.Close()
}

// withoutLimit is what a missing controller means.
var withoutLimit = map[string]string{
	"cpu":    "a machine may use as many CPUs as it has, whatever fraction was asked for",
	"io":     "of a disk's speed a VMM may use all that it does not bound itself",
	"memory": "a VMM that is taken over may use all of the host's memory",
	"pids":   "the number of threads is bounded by the user's limit alone",
}

// CheckLimits says which limits hold on this host.
func CheckLimits(o Options) dayfly.Check {
	c := dayfly.Check{Name: "cgroups"}
	if o.Cgroup == "" {
		o.Cgroup = defaultGroup
	}
	t, err := plant(o.Cgroup)
	if err != nil {
		c.Status, c.Detail, c.Remedy = dayfly.Lacking, err.Error(), "mount /proc and /sys/fs/cgroup"
		return c
	}
	defer t.uproot()
	const newer = "boot the host with systemd.unified_cgroup_hierarchy=1"
	if lacks := t.lacks(); len(lacks) > 0 {
		var costs []string
		for _, name := range lacks {
			cost := name + ": " + withoutLimit[name]
			if reason := t.reasons[name]; reason != nil {
				cost += " (" + reason.Error() + ")"
			}
			costs = append(costs, cost)
		}
		c.Status, c.Detail, c.Remedy = dayfly.Lacking, "no limits of some kinds: "+strings.Join(costs, "; "), newer+", as root, where the hierarchy can be written to"
		return c
	}
	var old []string
	for _, name := range controllers {
		if !t.places[name].v2 {
			old = append(old, name)
		}
	}
	if len(old) > 0 {
		c.Status, c.Remedy = dayfly.Lacking, newer
		c.Detail = fmt.Sprintf("%s by version 1: limits hold, but that of io for direct reads and writes alone", strings.Join(old, ", "))
		return c
	}
	c.Status, c.Detail = dayfly.Good, "v2 with "+strings.Join(controllers, ", ")
	return c
}
