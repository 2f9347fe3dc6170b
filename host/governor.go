package host

import (
	"fmt"
	"strings"

	"github.com/dayfly/dayfly"
)

// governor asks for processors that are fast at once: a start is over before
// a governor that looks every 10 ms or so has raised the frequency.
// https://docs.kernel.org/admin-guide/pm/cpufreq.html
func (h Host) governor() dayfly.Check {
	policies := h.glob("sys/devices/system/cpu/cpufreq/policy*")
	if len(policies) == 0 {
		return good("none: the hardware or the hypervisor below sets the frequency")
	}
	slow := map[string]int{}
	var least, most int64
	for _, p := range policies {
		name := h.word(p + "/scaling_governor")
		if name == "" || name == "performance" {
			continue
		}
		slow[name]++
		least, _ = h.number(p + "/scaling_min_freq")
		most, _ = h.number(p + "/scaling_max_freq")
	}
	if len(slow) == 0 {
		return good("performance")
	}
	var names []string
	for name := range slow {
		names = append(names, name)
	}
	f := finding{
		detail: few(names) + fmt.Sprintf(" on %d of %d", sum(slow), len(policies)),
		cost:   "the first milliseconds of each start run at a low frequency",
		remedy: "echo performance | tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor; for good: cpupower.service",
	}
	if least > 0 && most > least {
		f.cost += fmt.Sprintf(": %d of %d MHz, so up to %s times as long", least/1000, most/1000, strings.TrimSuffix(fmt.Sprintf("%.1f", float64(most)/float64(least)), ".0"))
	}
	return lacking(f)
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}
