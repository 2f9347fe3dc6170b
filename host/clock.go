package host

import (
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// fast are the clocks that are read without a system call or a device.
var fast = []string{"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase", "riscv_clocksource"}

// clocksource asks for the processor's own counter. Red Hat measured 10 million
// readings: TSC 0.6 s, HPET 12 s, ACPI PM 24 s (Realtime Reference Guide,
// chapter Timestamping). KVM gives guests a clock of that kind only if the host
// has it.
func (h Host) clocksource() dayfly.Check {
	const dir = "sys/devices/system/clocksource/clocksource0/"
	now := h.word(dir + "current_clocksource")
	available := strings.Fields(h.word(dir + "available_clocksource"))
	switch {
	case now == "":
		return lacking(finding{detail: "the kernel does not say which clock it uses", remedy: "mount -t sysfs sysfs /sys"})
	case slices.Contains(fast, now):
		return good("%s", now)
	}
	f := finding{
		detail: now + ", a device that is asked at each reading",
		cost:   "reading the clock takes 20 (hpet) to 40 (acpi_pm) times as long as with tsc, in guests too",
		remedy: "dmesg | grep -i tsc says why the kernel rejected it; newer firmware often helps",
	}
	for _, c := range fast {
		if slices.Contains(available, c) {
			f.remedy = "echo " + c + " > /sys/devices/system/clocksource/clocksource0/current_clocksource"
			break
		}
	}
	return lacking(f)
}
