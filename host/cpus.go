package host

import (
	"fmt"

	"github.com/dayfly/dayfly"
)

// cpus asks for all of the host's CPUs: machines inherit what dayfly may use.
func (h Host) cpus() dayfly.Check {
	mine := field(h.word("proc/self/status"), "Cpus_allowed_list")
	online := h.word("sys/devices/system/cpu/online")
	have, all := count(mine), count(online)
	switch {
	case have == 0 || all == 0:
		return lacking(finding{detail: "the kernel does not say which CPUs may be used", remedy: "mount -t sysfs sysfs /sys"})
	case have < all:
		return lacking(finding{
			detail: fmt.Sprintf("%d of %d CPUs may be used: %s", have, all, mine),
			cost:   fmt.Sprintf("at most %d%% of the host's computing", have*100/all),
			remedy: "remove AllowedCPUs= or CPUAffinity= from the service, or the cpuset or taskset it was started in; if it is meant, nothing",
		})
	}
	return good("all %d CPUs", all)
}
