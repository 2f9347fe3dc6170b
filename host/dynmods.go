package host

import (
	"slices"

	"github.com/dayfly/dayfly"
)

// dynmods asks for control groups in which processes move fast. Since Linux 6.0
// (6a010a49b63a) a move waits for a grace period of RCU unless a hierarchy is
// mounted with favordynmods: 7 ms measured with 2 CPUs on Linux 6.18, more on
// larger hosts; once for the group of a jail, and once more where KVM_CREATE_VM
// starts the thread that recovers huge pages: "may incur 100ms+ latency", below
// 1 ms without (the series that added nx_huge_pages=never to Linux 6.1). The
// other side of it, by the kernel's documentation: each fork and exit on the
// host gets a little slower.
// https://docs.kernel.org/admin-guide/cgroup-v2.html#mounting
func (h Host) dynmods() dayfly.Check {
	groups := h.groups()
	if len(groups) == 0 {
		return lacking(finding{detail: "no control groups are mounted", cost: "machines have no limits", remedy: "mount -t cgroup2 -o favordynmods cgroup2 /sys/fs/cgroup"})
	}
	if !h.atLeast(6, 0) {
		return good("not needed before Linux 6.0")
	}
	point := ""
	for _, g := range groups {
		if slices.Contains(g.options, "favordynmods") {
			return good("favordynmods at %s", g.point)
		}
		if g.fs == "cgroup2" {
			point = g.point
		}
	}
	f := finding{
		detail: "control groups are mounted without favordynmods",
		cost:   "7 to 100 ms for each process that moves into a group: each jail that is made, and each VM under KVM unless kvm has nx_huge_pages=never",
		remedy: "mount -o remount,favordynmods " + point,
	}
	if point == "" {
		f.remedy = "boot the host with systemd.unified_cgroup_hierarchy=1, then mount -o remount,favordynmods /sys/fs/cgroup"
	}
	return lacking(f)
}
