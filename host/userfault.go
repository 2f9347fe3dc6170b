package host

import "github.com/dayfly/dayfly"

// userfaultfd asks that only privileged processes may stop the kernel in the
// middle of an access to memory: to hold it there is a common step of attacks
// on the kernel. Memory of copies is mapped from files, a jail forbids the
// call, so nothing here needs it.
// https://docs.kernel.org/admin-guide/sysctl/vm.html#unprivileged-userfaultfd
func (h Host) userfaultfd() dayfly.Check {
	if h.word("proc/sys/vm/unprivileged_userfaultfd") == "1" {
		return lacking(finding{
			detail: "any process may handle page faults of the kernel",
			cost:   "flaws of the kernel are easier to exploit by programs on this host; no time",
			remedy: "sysctl -w vm.unprivileged_userfaultfd=0; for good: a line in /etc/sysctl.d/dayfly.conf",
		})
	}
	return good("for privileged processes only; no machine needs it")
}
