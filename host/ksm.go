package host

import (
	"fmt"
	"os"

	"github.com/dayfly/dayfly"
)

// ksm asks for no merging of pages. A write to a merged page takes measurably
// longer, so a guest can find out what another has in memory.
// https://docs.kernel.org/admin-guide/mm/ksm.html; Firecracker's
// docs/prod-host-setup.md asks for the same.
func (h Host) ksm() dayfly.Check {
	run, ok := h.number("sys/kernel/mm/ksm/run")
	if !ok || run != 1 {
		return good("off")
	}
	f := finding{
		detail: "the kernel merges equal pages of guests",
		cost:   "a guest can find out what another has in memory, and scanning takes CPU time",
		remedy: "echo 2 > /sys/kernel/mm/ksm/run; for good: systemctl disable --now ksm ksmtuned",
	}
	if shared, _ := h.number("sys/kernel/mm/ksm/pages_sharing"); shared > 0 {
		f.cost += fmt.Sprintf("; it saves %d MiB now", shared*int64(os.Getpagesize())>>20)
	}
	return lacking(f)
}
