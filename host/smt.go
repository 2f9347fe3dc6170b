package host

import (
	"fmt"

	"github.com/dayfly/dayfly"
)

// smt asks for one thread a core. Two guests on the threads of one core share
// its caches and buffers; what L1TF, MDS and their kin read there is kept apart
// by nothing but switching the second thread off, or core scheduling.
// https://docs.kernel.org/admin-guide/hw-vuln/l1tf.html#smt-control
func (h Host) smt() dayfly.Check {
	const dir = "sys/devices/system/cpu/smt/"
	if h.word(dir+"active") != "1" {
		control := h.word(dir + "control")
		if control == "" {
			control = "the kernel knows of none"
		}
		return good("one thread a core (%s)", control)
	}
	online := count(h.word("sys/devices/system/cpu/online"))
	f := finding{
		detail: "two guests may share a core",
		cost:   "a guest can measure, on some processors read, what its neighbour on the other thread does",
		remedy: "echo off > /sys/devices/system/cpu/smt/control; for good: nosmt on the kernel's command line",
	}
	if online > 1 {
		f.cost += fmt.Sprintf("; off costs threads: %d become %d", online, online/2)
	}
	return lacking(f)
}
