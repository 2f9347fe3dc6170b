package host

import (
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
)

// machineThreads is what a machine has of threads: QEMU 10 with one CPU has 5
// or 6, and more while it reads and writes.
const machineThreads = 8

// pids asks for room for threads. The usual cause of too little is systemd's
// TasksMax, which is pids.max of the service's group.
func (h Host) pids() dayfly.Check {
	used := threads(h.word("proc/loadavg"))
	var list []ceiling
	for _, name := range []string{"pid_max", "threads-max"} {
		if n, ok := h.number("proc/sys/kernel/" + name); ok {
			list = append(list, ceiling{"kernel." + name, n, used, machineThreads, "sysctl -w kernel." + name + "=4194304; for good: a line in /etc/sysctl.d/dayfly.conf"})
		}
	}
	for _, dir := range h.groupDirs("pids") {
		n, ok := limit(h.word(dir + "/pids.max"))
		if !ok {
			continue
		}
		current, _ := h.number(dir + "/pids.current")
		list = append(list, ceiling{dir + "/pids.max", n, current, machineThreads, "TasksMax=infinity in the service, or echo max > " + dir + "/pids.max"})
	}
	if len(list) == 0 {
		return lacking(finding{detail: "the kernel does not say how many threads there may be", remedy: "mount -t proc proc /proc"})
	}
	return h.lowest("threads", list)
}

// threads is how many the host has, by /proc/loadavg: "0.1 0.1 0.1 2/345 678".
func threads(loadavg string) int64 {
	w := strings.Fields(loadavg)
	if len(w) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(w[3], "/")
	n, err := strconv.ParseInt(all, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
