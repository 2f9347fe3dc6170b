package host

import (
	"fmt"

	"github.com/dayfly/dayfly"
)

// overcommit asks for memory that is counted when it is touched. A machine
// maps all of its memory at once, and touches a part: with mode 2 each counts
// in full. https://docs.kernel.org/mm/overcommit-accounting.html
func (h Host) overcommit() dayfly.Check {
	switch h.word("proc/sys/vm/overcommit_memory") {
	case "2":
		meminfo := h.word("proc/meminfo")
		limit, used := kib(meminfo, "CommitLimit"), kib(meminfo, "Committed_AS")
		fit := max(limit-used, 0) >> 10 / dayfly.DefaultMemoryMiB
		return lacking(finding{
			detail: "vm.overcommit_memory is 2: mapped memory counts as used",
			cost:   fmt.Sprintf("room for %d more workspaces of %d MiB, however little they touch", fit, dayfly.DefaultMemoryMiB),
			remedy: "sysctl -w vm.overcommit_memory=0; for good: a line in /etc/sysctl.d/dayfly.conf",
		})
	case "0":
		return good("heuristic: memory counts when it is touched")
	case "1":
		return good("always: memory counts when it is touched")
	}
	return lacking(finding{detail: "the kernel does not say how it counts memory", remedy: "mount -t proc proc /proc"})
}
