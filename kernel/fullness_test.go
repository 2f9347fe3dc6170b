package kernel

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly/test/needs"
)

// full is the promise behind "full Linux": what a tuned kernel has, by what it
// is there for. "off" means that the option must not be set.
var full = []struct {
	why     string
	want    string // y, off, or a value
	options string
}{
	{"a 64-bit, multi-processor PC", "y", "64BIT SMP X86_64"},
	{"32-bit programs run", "y", "IA32_EMULATION COMPAT_32BIT_TIME"},
	{"it boots without firmware", "y", "PVH"},
	{"virtio-mmio devices are found without ACPI", "y", "VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES X86_MPPARSE"},
	{"it knows that it runs on KVM: clock and steal time", "y", "HYPERVISOR_GUEST PARAVIRT KVM_GUEST PTP_1588_CLOCK_KVM"},
	{"a restored clone learns that it is one", "y", "VMGENID ACPI"},
	{"the devices of a machine", "y", "VIRTIO_BLK VIRTIO_NET VIRTIO_CONSOLE HW_RANDOM_VIRTIO VIRTIO_VSOCKETS VIRTIO_FS VIRTIO_PMEM"},
	{"memory goes back to the host", "y", "VIRTIO_BALLOON PAGE_REPORTING BALLOON_COMPACTION"},
	{"a panic reaches the host", "y", "EARLY_PRINTK SERIAL_8250_CONSOLE PRINTK"},
	{"a panic ends the machine", "-1", "PANIC_TIMEOUT"},
	{"a broken kernel stops", "y", "PANIC_ON_OOPS"},
	{"the initramfs", "y", "BLK_DEV_INITRD DEVTMPFS BINFMT_ELF BINFMT_SCRIPT"},

	{"containers: namespaces", "y", "NAMESPACES UTS_NS IPC_NS USER_NS PID_NS NET_NS TIME_NS"},
	{"containers: control groups", "y", "CGROUPS MEMCG BLK_CGROUP BLK_DEV_THROTTLING CGROUP_SCHED CFS_BANDWIDTH CGROUP_PIDS CGROUP_FREEZER CGROUP_HUGETLB CPUSETS CGROUP_DEVICE CGROUP_CPUACCT CGROUP_PERF CGROUP_BPF CGROUP_MISC"},
	{"containers: layers", "y", "OVERLAY_FS"},
	{"containers: keys and queues", "y", "KEYS POSIX_MQUEUE"},
	{"sandboxes inside", "y", "SECCOMP SECCOMP_FILTER SECURITY_LANDLOCK SECURITY_YAMA"},
	{"pressure is visible", "y", "PSI TASKSTATS TASK_IO_ACCOUNTING"},
	{"BPF", "y", "BPF_SYSCALL BPF_JIT NET_CLS_BPF XDP_SOCKETS"},
	{"unprivileged BPF is an attack surface", "y", "BPF_UNPRIV_DEFAULT_OFF"},

	{"the disks: both file systems and what lies between", "y", "EXT4_FS EXT4_FS_POSIX_ACL EXT4_FS_SECURITY BLK_DEV_DM DM_CRYPT CRYPTO_XTS CRYPTO_AES CRYPTO_AES_NI_INTEL"},
	{"compressed, read-only roots", "y", "EROFS_FS EROFS_FS_ZIP SQUASHFS SQUASHFS_ZSTD SQUASHFS_XZ"},
	{"file systems in user space", "y", "FUSE_FS"},
	{"memory file systems", "y", "TMPFS TMPFS_POSIX_ACL TMPFS_XATTR SHMEM"},
	{"disk images inside", "y", "BLK_DEV_LOOP ISO9660_FS VFAT_FS EFI_PARTITION MSDOS_PARTITION"},
	{"directories shared by a host", "y", "NET_9P_VIRTIO 9P_FS"},
	{"services that watch mounts", "y", "AUTOFS_FS"},

	{"system calls: waiting", "y", "EPOLL SIGNALFD TIMERFD EVENTFD FUTEX POSIX_TIMERS AIO IO_URING"},
	{"system calls: watching files", "y", "INOTIFY_USER FANOTIFY DNOTIFY"},
	{"system calls: memory", "y", "USERFAULTFD MEMFD_CREATE CROSS_MEMORY_ATTACH MEMBARRIER RSEQ ADVISE_SYSCALLS"},
	{"system calls: the rest", "y", "SYSVIPC FHANDLE KCMP FILE_LOCKING MODIFY_LDT_SYSCALL MULTIUSER"},
	{"large pages", "y", "HUGETLBFS TRANSPARENT_HUGEPAGE TRANSPARENT_HUGEPAGE_MADVISE"},
	{"swap", "y", "SWAP"},
	{"terminals", "y", "TTY UNIX98_PTYS"},
	{"foreign binaries, such as another architecture's", "y", "BINFMT_MISC"},
	{"debuggers and profilers", "y", "COREDUMP ELF_CORE PERF_EVENTS KALLSYMS PROC_PAGE_MONITOR CHECKPOINT_RESTORE"},
	{"precise timers", "y", "HIGH_RES_TIMERS NO_HZ_IDLE"},
	{"it says what it is", "y", "IKCONFIG_PROC PROC_FS SYSFS"},

	{"network: protocols", "y", "INET IPV6 PACKET UNIX TLS IP_MULTICAST"},
	{"network: policy routing", "y", "IP_ADVANCED_ROUTER IP_MULTIPLE_TABLES IPV6_MULTIPLE_TABLES"},
	{"network: ss and its kin", "y", "INET_DIAG INET_TCP_DIAG INET_UDP_DIAG UNIX_DIAG PACKET_DIAG"},
	{"network: container bridges", "y", "BRIDGE BRIDGE_NETFILTER BRIDGE_VLAN_FILTERING VETH VLAN_8021Q MACVLAN IPVLAN DUMMY"},
	{"network: tunnels", "y", "TUN VXLAN WIREGUARD GENEVE"},
	{"network: shaping", "y", "NET_SCHED NET_SCH_HTB NET_SCH_TBF NET_SCH_FQ NET_SCH_FQ_CODEL NET_SCH_INGRESS NET_SCH_NETEM NET_ACT_MIRRED NET_ACT_POLICE"},
	{"network: congestion control", "y", "TCP_CONG_CUBIC TCP_CONG_BBR"},
	{"nftables", "y", "NF_TABLES NF_TABLES_INET NF_TABLES_IPV4 NF_TABLES_IPV6 NF_TABLES_BRIDGE NF_TABLES_NETDEV NFT_CT NFT_LOG NFT_LIMIT NFT_MASQ NFT_REDIR NFT_NAT NFT_QUEUE NFT_QUOTA NFT_REJECT NFT_HASH NFT_FIB_INET NFT_SOCKET NFT_TPROXY NFT_NUMGEN NFT_CONNLIMIT"},
	{"NAT", "y", "NF_CONNTRACK NF_NAT NF_CT_NETLINK NF_CONNTRACK_EVENTS NF_CONNTRACK_MARK"},
	{"iptables-nft", "y", "NFT_COMPAT NETFILTER_XTABLES NETFILTER_XT_MATCH_ADDRTYPE NETFILTER_XT_MATCH_CONNTRACK NETFILTER_XT_MATCH_COMMENT NETFILTER_XT_MATCH_MULTIPORT NETFILTER_XT_MATCH_OWNER NETFILTER_XT_MATCH_STATISTIC NETFILTER_XT_MARK NETFILTER_XT_TARGET_MASQUERADE NETFILTER_XT_TARGET_REDIRECT NETFILTER_XT_TARGET_TCPMSS NETFILTER_XT_NAT"},
	{"the old iptables", "y", "IP_NF_IPTABLES IP_NF_FILTER IP_NF_NAT IP_NF_MANGLE IP_NF_RAW IP6_NF_IPTABLES IP6_NF_FILTER IP6_NF_NAT IP6_NF_MANGLE IP6_NF_RAW"},
	{"ipsets and service load balancing", "y", "IP_SET IP_SET_HASH_IP IP_SET_HASH_NET NETFILTER_XT_SET IP_VS"},

	{"hardening: memory", "y", "STACKPROTECTOR_STRONG HARDENED_USERCOPY FORTIFY_SOURCE STRICT_KERNEL_RWX VMAP_STACK INIT_STACK_ALL_ZERO SLAB_FREELIST_RANDOM SLAB_FREELIST_HARDENED LIST_HARDENED SCHED_STACK_END_CHECK RANDOMIZE_KSTACK_OFFSET"},
	{"hardening: what the processor itself offers against speculation", "y", "CPU_MITIGATIONS MITIGATION_PAGE_TABLE_ISOLATION MITIGATION_SPECTRE_BHI MITIGATION_RFDS"},
	{"hardening: no new kernel code", "off", "MODULES KEXEC KEXEC_FILE HIBERNATION"},
	{"hardening: no raw hardware", "off", "PCI DEVPORT PROC_KCORE"},

	{"boot: nothing tests itself", "y", "CRYPTO_MANAGER_DISABLE_TESTS"},
	{"boot: nothing unused is set up", "0", "BLK_DEV_LOOP_MIN_COUNT"},
	{"boot: nothing to debug this kernel with", "off", "DEBUG_INFO DEBUG_INFO_BTF AUDIT FTRACE VT"},
	{"boot: nothing that patches code at start, which an emulator pays dearly for", "off", "MITIGATION_RETPOLINE MITIGATION_RETHUNK MITIGATION_CALL_DEPTH_TRACKING PARAVIRT_SPINLOCKS JUMP_LABEL RANDOMIZE_BASE"},
}

// What the fragment asks for is one thing; what remains of it when Linux's own
// rules have been applied is the other.
func TestTunedKernelIsFullLinux(t *testing.T) {
	source := needs.KernelSource(t)
	t.Parallel()
	c := compilation{dir: filepath.Join(t.TempDir(), "linux"), fragment: filepath.Join(t.TempDir(), "fragment"), opts: BuildOptions{Source: source, Log: io.Discard}}
	if err := os.WriteFile(c.fragment, fragment, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Only what configuring needs: 30 MB instead of 1.7 GB.
	unpack := []string{"tar", "-x", "--strip-components=1", "-f", source, "--wildcards", "*/Kconfig*", "*/Makefile*", "*/Kbuild*", "*/scripts/*"}
	edited := map[string]bool{} // a name that is given twice is one that tar does not find
	for _, e := range edits {
		if !edited[e.file] {
			edited[e.file] = true
			unpack = append(unpack, "*/"+e.file)
		}
	}
	if err := run(t.Context(), command{dir: c.dir, out: io.Discard, args: unpack}); err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		if done, err := e.apply(c.dir); !done || err != nil {
			t.Errorf("the edit of %s does not fit: %v", e.file, err)
		}
	}
	if err := c.configure(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := readConfig(t, filepath.Join(c.dir, ".config"))
	for _, f := range full {
		for option := range strings.FieldsSeq(f.options) {
			if v, ok := got[option]; f.want == "off" && ok || f.want != "off" && v != f.want {
				t.Errorf("CONFIG_%s is %q, want %s: %s", option, v, f.want, f.why)
			}
		}
	}
	asked := readConfig(t, c.fragment)
	for option, want := range asked {
		if got[option] != want {
			t.Errorf("the fragment asks for CONFIG_%s=%s, which Linux makes %q: what it depends on is missing, or it is gone", option, want, got[option])
		}
	}
}

// readConfig returns the options that are set in a kernel configuration.
func readConfig(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && strings.HasPrefix(name, "CONFIG_") {
			set[strings.TrimPrefix(name, "CONFIG_")] = value
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return set
}
