package host

import (
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// cpusets asks for a kernel whose cpuset controller does not slow KVM. From
// Linux 5.4 (1243dc518c9d) to 6.3 attaching a thread to a group with cpusets
// took a lock that waits for a grace period of RCU. KVM_CREATE_VM in a jailer's
// groups took 27 ms there instead of 0.35 ms (firecracker#2129).
func (h Host) cpusets() dayfly.Check {
	if h.atLeast(6, 4) || !h.atLeast(5, 4) {
		return good("attaching to them is fast in this kernel")
	}
	if h.word("sys/module/kvm/parameters/nx_huge_pages") == "never" {
		return good("KVM starts no thread that would have to be attached")
	}
	if !h.usesCpusets() {
		return good("not in use")
	}
	f := finding{
		detail: "the cpuset controller of this kernel is slow, and in use",
		cost:   "some 27 ms more for each VM under KVM",
		remedy: "Linux 6.4 or newer",
	}
	if h.word("sys/devices/system/cpu/vulnerabilities/itlb_multihit") == "Not affected" && h.atLeast(6, 1) {
		f.remedy += "; or, as this processor needs no such thread: echo 'options kvm nx_huge_pages=never' > /etc/modprobe.d/dayfly.conf, and reboot"
	}
	return lacking(f)
}

func (h Host) usesCpusets() bool {
	for _, g := range h.groups() {
		if g.fs == "cgroup" && slices.Contains(g.options, "cpuset") {
			return true
		}
		if g.fs == "cgroup2" && slices.Contains(strings.Fields(h.word(g.point+"/cgroup.subtree_control")), "cpuset") {
			return true
		}
	}
	return false
}
