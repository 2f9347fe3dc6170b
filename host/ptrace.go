package host

import (
	"strconv"

	"github.com/dayfly/dayfly"
)

// capPtrace is CAP_SYS_PTRACE of linux/capability.h.
const capPtrace = 19

// ptrace asks for the right to read a VMM's memory from outside, which is how
// running workspaces are paused, kept and copied. A VMM that this process
// started is its child; one taken over from a server before it is not.
// https://docs.kernel.org/admin-guide/LSM/Yama.html
func (h Host) ptrace() dayfly.Check {
	caps, err := strconv.ParseUint(field(h.word("proc/self/status"), "CapEff"), 16, 64)
	may := err == nil && caps>>capPtrace&1 == 1
	const remedy = "run dayfly as root, or sysctl -w kernel.yama.ptrace_scope=0"
	switch scope := h.word("proc/sys/kernel/yama/ptrace_scope"); {
	case scope == "3":
		return lacking(finding{
			detail: "kernel.yama.ptrace_scope is 3: no process may read another's memory",
			cost:   "no workspace can be paused, snapshotted or forked while it runs",
			remedy: "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d, and reboot: it cannot be taken back while the host runs",
		})
	case may:
		return good("dayfly may read the memory of its machines")
	case scope == "2":
		return lacking(finding{detail: "kernel.yama.ptrace_scope is 2, and dayfly has no CAP_SYS_PTRACE", cost: "no workspace can be paused, snapshotted or forked while it runs", remedy: remedy})
	case scope == "1":
		return lacking(finding{detail: "kernel.yama.ptrace_scope is 1, and dayfly has no CAP_SYS_PTRACE", cost: "workspaces that outlived a server can be used, but not paused, snapshotted or forked while they run", remedy: remedy})
	}
	return good("dayfly may read the memory of processes of its user")
}
