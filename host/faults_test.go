package host

import "github.com/dayfly/dayfly"

const (
	cpu    = "sys/devices/system/cpu/"
	clocks = "sys/devices/system/clocksource/clocksource0/"
	group  = "sys/fs/cgroup/system.slice/dayfly.service/"

	v1Mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
		"33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
	slowMounts = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
	noCaps     = "CapEff:\t0000000000000000\nCpus_allowed_list:\t0-7\n"
)

// faults are hosts with one thing that differs from the healthy one.
var faults = []struct {
	check, name string
	differs     map[string]string
	status      dayfly.Status // empty: lacking
	says        string
	too         []string // checks that see it as well
}{
	{check: "smt", name: "on", differs: map[string]string{cpu + "smt/active": "1"}, says: "8 become 4"},
	{check: "smt", name: "unknown", differs: map[string]string{cpu + "smt/active": absent, cpu + "smt/control": absent}, status: dayfly.Good, says: "one thread"},

	{check: "mitigations", name: "open", differs: map[string]string{cpu + "vulnerabilities/retbleed": "Vulnerable\n"}, says: "open: retbleed"},
	{check: "mitigations", name: "KVM", differs: map[string]string{cpu + "vulnerabilities/itlb_multihit": "KVM: Vulnerable\n"}, says: "open: itlb_multihit"},
	{check: "mitigations", name: "switched off", differs: map[string]string{"proc/cmdline": "quiet mitigations=off", cpu + "vulnerabilities/a": "Vulnerable", cpu + "vulnerabilities/b": "Vulnerable", cpu + "vulnerabilities/c": "Vulnerable", cpu + "vulnerabilities/d": "Vulnerable: no microcode"}, says: "a, b, c and 1 more; switched off by mitigations=off"},
	{check: "mitigations", name: "switched off for nothing", differs: map[string]string{"proc/cmdline": "mitigations=off"}, says: "found later"},
	{check: "mitigations", name: "on again", differs: map[string]string{"proc/cmdline": "mitigations=off mitigations=auto,nosmt"}, status: dayfly.Good},
	{check: "mitigations", name: "unknown", differs: map[string]string{cpu + "vulnerabilities/mds": absent, cpu + "vulnerabilities/itlb_multihit": absent}, says: "does not say"},

	{check: "nested", name: "below", differs: map[string]string{"proc/cpuinfo": "flags : fpu hypervisor vmx\n"}, says: "itself a virtual machine"},
	{check: "nested", name: "offered", differs: map[string]string{"sys/module/kvm_intel/parameters/nested": "Y"}, says: "options kvm_intel nested=0"},
	{check: "nested", name: "offered on AMD", differs: map[string]string{"sys/module/kvm_amd/parameters/nested": "1"}, says: "modprobe kvm_amd"},

	{check: "clocksource", name: "hpet", differs: map[string]string{clocks + "current_clocksource": "hpet"}, says: "echo tsc > /sys"},
	{check: "clocksource", name: "no other", differs: map[string]string{clocks + "current_clocksource": "acpi_pm", clocks + "available_clocksource": "hpet acpi_pm"}, says: "dmesg"},
	{check: "clocksource", name: "guest's", differs: map[string]string{clocks + "current_clocksource": "kvm-clock"}, status: dayfly.Good},
	{check: "clocksource", name: "unknown", differs: map[string]string{clocks + "current_clocksource": absent}, says: "does not say"},

	{check: "governor", name: "slow", differs: map[string]string{cpu + "cpufreq/policy0/scaling_governor": "powersave"}, says: "800 of 3600 MHz, so up to 4.5 times"},
	{check: "governor", name: "none", differs: map[string]string{cpu + "cpufreq/policy0/scaling_governor": absent}, status: dayfly.Good},

	{check: "cpus", name: "some", differs: map[string]string{"proc/self/status": "CapEff:\t000001ffffffffff\nCpus_allowed_list:\t0,4-5\n"}, says: "3 of 8 CPUs may be used: 0,4-5"},
	{check: "cpus", name: "unknown", differs: map[string]string{cpu + "online": "x"}, says: "does not say"},

	{check: "ksm", name: "on", differs: map[string]string{"sys/kernel/mm/ksm/run": "1", "sys/kernel/mm/ksm/pages_sharing": "2560"}, says: "it saves "},
	{check: "ksm", name: "undone", differs: map[string]string{"sys/kernel/mm/ksm/run": "2"}, status: dayfly.Good},

	{check: "swap", name: "in the clear", differs: map[string]string{"proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 2097148 0 -2\n"}, says: "/dev/sda2, 2047 MiB"},
	{check: "swap", name: "in memory", differs: map[string]string{"proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 -2\n"}, status: dayfly.Good},
	{check: "swap", name: "encrypted", differs: map[string]string{"proc/swaps": "Filename Type Size Used Priority\n/dev/dm-1 partition 1 0 -2\n", "sys/block/dm-1/dm/uuid": "CRYPT-PLAIN-swap\n"}, status: dayfly.Good},

	{check: "hugepages", name: "off", differs: map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]"}, says: "echo madvise"},
	{check: "hugepages", name: "none", differs: map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": absent}, says: "CONFIG_TRANSPARENT_HUGEPAGE"},
	{check: "hugepages", name: "set aside", differs: map[string]string{"proc/meminfo": "MemTotal: 16777216 kB\nHugePages_Total: 4096\nHugepagesize: 2048 kB\n"}, says: "8192 MiB are set aside"},

	{check: "overcommit", name: "strict", differs: map[string]string{"proc/sys/vm/overcommit_memory": "2"}, says: "room for 8 more workspaces"},
	{check: "overcommit", name: "always", differs: map[string]string{"proc/sys/vm/overcommit_memory": "1"}, status: dayfly.Good},
	{check: "overcommit", name: "unknown", differs: map[string]string{"proc/sys/vm/overcommit_memory": absent}, says: "does not say"},

	{check: "dynmods", name: "without", differs: map[string]string{"proc/self/mountinfo": slowMounts}, says: "mount -o remount,favordynmods /sys/fs/cgroup"},
	{check: "dynmods", name: "version 1", differs: map[string]string{"proc/self/mountinfo": v1Mounts}, says: "unified_cgroup_hierarchy"},
	{check: "dynmods", name: "old kernel", differs: map[string]string{"proc/self/mountinfo": slowMounts, "proc/sys/kernel/osrelease": "5.3.0"}, status: dayfly.Good},
	{check: "dynmods", name: "no groups", differs: map[string]string{"proc/self/mountinfo": ""}, says: "no control groups"},

	{check: "cpusets", name: "slow", differs: map[string]string{"proc/sys/kernel/osrelease": "6.1.0-30-cloud-amd64"}, says: "nx_huge_pages=never"},
	{check: "cpusets", name: "slow, version 1", differs: map[string]string{"proc/sys/kernel/osrelease": "5.10.0", "proc/self/mountinfo": v1Mounts}, says: "27 ms"},
	{check: "cpusets", name: "no thread", differs: map[string]string{"proc/sys/kernel/osrelease": "6.1.0", "sys/module/kvm/parameters/nx_huge_pages": "never"}, status: dayfly.Good},
	{check: "cpusets", name: "not in use", differs: map[string]string{"proc/sys/kernel/osrelease": "6.1.0", "sys/fs/cgroup/cgroup.subtree_control": "cpu"}, status: dayfly.Good},

	{check: "entropy", name: "not ready", differs: map[string]string{"proc/sys/kernel/random/entropy_avail": "60"}, says: "60 of 256 bits"},
	{check: "entropy", name: "older kernel", differs: map[string]string{"proc/sys/kernel/random/entropy_avail": "200", "proc/sys/kernel/random/poolsize": "4096"}, status: dayfly.Good},
	{check: "entropy", name: "unknown", differs: map[string]string{"proc/sys/kernel/random/entropy_avail": absent}, says: "does not say"},

	{check: "pids", name: "default of the kernel", differs: map[string]string{"proc/sys/kernel/pid_max": "1200"}, says: "kernel.pid_max is 1200, and 400 are in use\nroom for 100 more workspaces, where memory has room for 128"},
	{check: "pids", name: "of the service", differs: map[string]string{group + "pids.max": "500"}, says: "TasksMax=infinity"},
	{check: "pids", name: "of one above", differs: map[string]string{"sys/fs/cgroup/system.slice/pids.max": "15", "sys/fs/cgroup/system.slice/pids.current": "12"}, status: dayfly.Broken, says: "system.slice/pids.max is 15"},
	{check: "pids", name: "of version 1", differs: map[string]string{"proc/self/mountinfo": v1Mounts, "proc/self/cgroup": "8:pids:/a\n0::/\n", "sys/fs/cgroup/pids/a/pids.max": "100"}, says: "/sys/fs/cgroup/pids/a/pids.max is 100", too: []string{"dynmods"}},
	{check: "pids", name: "unknown", differs: map[string]string{"proc/sys/kernel/pid_max": absent, "proc/sys/kernel/threads-max": absent, group + "pids.max": absent}, says: "does not say"},
	{check: "pids", name: "no limit", differs: map[string]string{"proc/sys/kernel/pid_max": absent, "proc/sys/kernel/threads-max": absent}, status: dayfly.Good, says: "no limit"},

	{check: "files", name: "of the process", differs: map[string]string{"proc/self/limits": "Max open files            1024                 1024                 files\n"}, says: "room for 60 more workspaces"},
	{check: "files", name: "below one", differs: map[string]string{"proc/self/limits": "Max open files            64                 64                 files\n"}, status: dayfly.Broken, says: "ulimit -n 1048576"},
	{check: "files", name: "of the kernel", differs: map[string]string{"proc/self/limits": "Max open files 1024 1024 files\n", "proc/sys/fs/nr_open": "4096"}, says: "sysctl -w fs.nr_open=1048576; then"},
	{check: "files", name: "of the host", differs: map[string]string{"proc/sys/fs/file-nr": "100 0 580"}, says: "fs.file-max is 580"},
	{check: "files", name: "unlimited", differs: map[string]string{"proc/self/limits": "Max open files unlimited unlimited files\n", "proc/sys/fs/file-nr": absent}, status: dayfly.Good, says: "no limit"},
	{check: "files", name: "unknown", differs: map[string]string{"proc/self/limits": absent, "proc/sys/fs/file-nr": absent}, says: "does not say"},

	{check: "ptrace", name: "never", differs: map[string]string{"proc/sys/kernel/yama/ptrace_scope": "3"}, says: "reboot"},
	{check: "ptrace", name: "children", differs: map[string]string{"proc/self/status": noCaps}, says: "outlived a server"},
	{check: "ptrace", name: "root's", differs: map[string]string{"proc/self/status": noCaps, "proc/sys/kernel/yama/ptrace_scope": "2"}, says: "run dayfly as root"},
	{check: "ptrace", name: "no Yama", differs: map[string]string{"proc/self/status": noCaps, "proc/sys/kernel/yama/ptrace_scope": absent}, status: dayfly.Good},

	{check: "userfaultfd", name: "anybody's", differs: map[string]string{"proc/sys/vm/unprivileged_userfaultfd": "1"}, says: "sysctl -w vm.unprivileged_userfaultfd=0"},
	{check: "userfaultfd", name: "none", differs: map[string]string{"proc/sys/vm/unprivileged_userfaultfd": absent}, status: dayfly.Good},

	{check: "vsock", name: "none", differs: map[string]string{"dev/vhost-vsock": absent}, status: dayfly.Good, says: "none is needed"},
	{check: "inotify", name: "none", differs: map[string]string{"proc/sys/fs/inotify/max_user_instances": absent}, status: dayfly.Good, says: "not in this kernel"},
}
