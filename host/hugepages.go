package host

import (
	"fmt"

	"github.com/dayfly/dayfly"
)

// hugepages asks for transparent huge pages where a VMM wants them. A fault is
// taken for each page that is touched first: for 2 MiB it is one instead of
// 512, and Firecracker measured boots up to 50 % shorter with huge pages
// (docs/hugepages.md there). Memory that is mapped from the file of a template
// or a snapshot has small pages either way.
func (h Host) hugepages() dayfly.Check {
	mode := chosen(h.word("sys/kernel/mm/transparent_hugepage/enabled"))
	const cost = "512 page faults for each 2 MiB that a booting guest touches, instead of one"
	switch mode {
	case "":
		return lacking(finding{detail: "the kernel has no transparent huge pages", cost: cost, remedy: "a kernel with CONFIG_TRANSPARENT_HUGEPAGE"})
	case "never":
		return lacking(finding{
			detail: "transparent huge pages are off", cost: cost,
			remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled; for good: transparent_hugepage=madvise on the kernel's command line",
		})
	}
	meminfo := h.word("proc/meminfo")
	if pool, size := kib(meminfo, "HugePages_Total"), kib(meminfo, "Hugepagesize"); pool > 0 && size > 0 {
		if held := pool * size >> 10; held*5 > kib(meminfo, "MemTotal")>>10 {
			return lacking(finding{
				detail: fmt.Sprintf("%d MiB are set aside for huge pages of programs that ask for them", held),
				cost:   "no machine uses them: so much less memory for workspaces",
				remedy: "sysctl -w vm.nr_hugepages=0, unless another program needs them",
			})
		}
	}
	return good("transparent, %s", mode)
}
