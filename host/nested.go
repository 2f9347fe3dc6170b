package host

import (
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// nested asks for real hardware below, and for no virtualisation inside guests.
//
// On a host that is itself a guest, an exit of ours goes to the hypervisor
// below, which has ours handle it: that one exit becomes dozens below is in the
// Turtles project, OSDI 2010.
func (h Host) nested() dayfly.Check {
	cpuinfo := h.word("proc/cpuinfo")
	if slices.Contains(strings.Fields(field(cpuinfo, "flags")), "hypervisor") {
		return lacking(finding{
			detail: "this host is itself a virtual machine",
			cost:   "each exit of a guest costs several of the hypervisor below: work with many exits (disk, page faults) runs some times slower",
			remedy: "a host on hardware; else see kvm for whether its hypervisor lets guests run at all",
		})
	}
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		switch h.word("sys/module/" + module + "/parameters/nested") {
		case "Y", "1":
			return lacking(finding{
				detail: module + " offers virtualisation to guests, which need none here",
				cost:   "more of KVM's code is within a guest's reach; no time",
				remedy: "echo 'options " + module + " nested=0' > /etc/modprobe.d/dayfly.conf; with no VM running: modprobe -r " + module + "; modprobe " + module,
			})
		}
	}
	return good("hardware below, and none of KVM's nesting for guests")
}
