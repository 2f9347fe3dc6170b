package jail

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter has three answers for a system call. Most pass: which of them a
// VMM makes changes with its versions, and QEMU and Firecracker narrow them down
// themselves. Some are refused, as a VMM or its libraries try them and go on
// without. And some are fatal: no VMM makes them, so whoever does has taken one
// over. Those are held by the kernel until this package has read their number
// and killed the process; where nobody listens any more, they fail.

// refused are system calls that fail, and how.
var refused = []struct {
	nr    uint32
	errno unix.Errno
}{
	// Its flags are behind a pointer, which a filter cannot follow. Libraries
	// then use clone.
	{unix.SYS_CLONE3, unix.ENOSYS},
	{unix.SYS_IO_URING_SETUP, unix.ENOSYS}, // QEMU tries it and does without
	{unix.SYS_IO_URING_ENTER, unix.ENOSYS},
	{unix.SYS_IO_URING_REGISTER, unix.ENOSYS},
	{unix.SYS_MEMFD_CREATE, unix.ENOSYS}, // a file that can be written and run; QEMU asks if there is one
	{unix.SYS_MEMFD_SECRET, unix.ENOSYS},
	{unix.SYS_USERFAULTFD, unix.ENOSYS},
	{unix.SYS_EXECVEAT, unix.EPERM},
	{unix.SYS_PERSONALITY, unix.EPERM},
	{unix.SYS_MKNODAT, unix.EPERM},
	{unix.SYS_SETUID, unix.EPERM}, // libraries drop rights that are not there
	{unix.SYS_SETGID, unix.EPERM},
	{unix.SYS_SETREUID, unix.EPERM},
	{unix.SYS_SETREGID, unix.EPERM},
	{unix.SYS_SETRESUID, unix.EPERM},
	{unix.SYS_SETRESGID, unix.EPERM},
	{unix.SYS_SETGROUPS, unix.EPERM},
	{unix.SYS_CAPSET, unix.EPERM},
	{unix.SYS_PIDFD_GETFD, unix.EPERM},
	{unix.SYS_PROCESS_MADVISE, unix.EPERM},
	{unix.SYS_FANOTIFY_INIT, unix.EPERM},
	{unix.SYS_QUOTACTL, unix.EPERM},
	{unix.SYS_SYSLOG, unix.EPERM},
	{unix.SYS_ACCT, unix.EPERM},
}

// fatal are system calls that end the jail, by what they are called in reports.
var fatal = map[uint32]string{
	unix.SYS_PTRACE: "ptrace", unix.SYS_PROCESS_VM_READV: "process_vm_readv", unix.SYS_PROCESS_VM_WRITEV: "process_vm_writev", unix.SYS_KCMP: "kcmp",
	unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2", unix.SYS_PIVOT_ROOT: "pivot_root", unix.SYS_CHROOT: "chroot",
	unix.SYS_OPEN_TREE: "open_tree", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_FSOPEN: "fsopen", unix.SYS_FSCONFIG: "fsconfig",
	unix.SYS_FSMOUNT: "fsmount", unix.SYS_FSPICK: "fspick", unix.SYS_MOUNT_SETATTR: "mount_setattr",
	unix.SYS_UNSHARE: "unshare", unix.SYS_SETNS: "setns", unix.SYS_BPF: "bpf", unix.SYS_PERF_EVENT_OPEN: "perf_event_open",
	unix.SYS_KEYCTL: "keyctl", unix.SYS_ADD_KEY: "add_key", unix.SYS_REQUEST_KEY: "request_key",
	unix.SYS_INIT_MODULE: "init_module", unix.SYS_FINIT_MODULE: "finit_module", unix.SYS_DELETE_MODULE: "delete_module",
	unix.SYS_KEXEC_LOAD: "kexec_load", unix.SYS_KEXEC_FILE_LOAD: "kexec_file_load", unix.SYS_REBOOT: "reboot",
	unix.SYS_SWAPON: "swapon", unix.SYS_SWAPOFF: "swapoff", unix.SYS_SETTIMEOFDAY: "settimeofday", unix.SYS_CLOCK_SETTIME: "clock_settime",
	unix.SYS_ADJTIMEX: "adjtimex", unix.SYS_CLOCK_ADJTIME: "clock_adjtime", unix.SYS_SETHOSTNAME: "sethostname",
	unix.SYS_SETDOMAINNAME: "setdomainname", unix.SYS_VHANGUP: "vhangup", unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at",
	unix.SYS_NAME_TO_HANDLE_AT: "name_to_handle_at", unix.SYS_LOOKUP_DCOOKIE: "lookup_dcookie", unix.SYS_NFSSERVCTL: "nfsservctl",
}

// Offsets in struct seccomp_data (seccomp(2)).
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16 // the lower half, on the little-endian machines there are
)

// namespaces are the flags of clone that make one. That of time namespaces is
// only clone3's.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(code uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k}
}

const (
	load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	anyBit   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	atLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	conclude = unix.BPF_RET | unix.BPF_K
)

func refusal(e unix.Errno) unix.SockFilter { return stmt(conclude, unix.SECCOMP_RET_ERRNO|uint32(e)) }

// filter is the program. It is a list of questions, each with its answer next
// to it, so that no jump is long.
func filter() []unix.SockFilter {
	allow := stmt(conclude, unix.SECCOMP_RET_ALLOW)
	prog := []unix.SockFilter{
		stmt(load, dataArch),
		jump(equal, auditArch, 1, 0),
		stmt(conclude, unix.SECCOMP_RET_KILL_PROCESS), // of another architecture: the numbers below would be others
		stmt(load, dataNr),
		jump(atLeast, foreignNumbers, 0, 1),
		stmt(conclude, unix.SECCOMP_RET_KILL_PROCESS),
	}
	for _, names := range []map[uint32]string{fatal, fatalHere} {
		for _, nr := range slices.Sorted(maps.Keys(names)) {
			prog = append(prog, jump(equal, nr, 0, 1), stmt(conclude, unix.SECCOMP_RET_USER_NOTIF))
		}
	}
	for _, r := range refused {
		prog = append(prog, jump(equal, r.nr, 0, 1), refusal(r.errno))
	}
	for _, nr := range refusedHere {
		prog = append(prog, jump(equal, nr, 0, 1), refusal(unix.EPERM))
	}
	prog = append(
		prog,
		// Threads, and no namespaces: a VMM has no children.
		jump(equal, unix.SYS_CLONE, 0, 6),
		stmt(load, dataArg0),
		jump(anyBit, namespaces, 0, 1),
		refusal(unix.EPERM),
		jump(anyBit, unix.CLONE_THREAD, 0, 1),
		allow,
		refusal(unix.EPERM),
		// Sockets of this host's processes only.
		jump(equal, unix.SYS_SOCKET, 1, 0),
		jump(equal, unix.SYS_SOCKETPAIR, 0, 4),
		stmt(load, dataArg0),
		jump(equal, unix.AF_UNIX, 0, 1),
		allow,
		refusal(unix.EAFNOSUPPORT),
		allow,
	)
	return prog
}

// install puts the filter over this thread for good and returns the descriptor
// by which fatal calls are heard of.
func install() (listener int, err error) {
	prog := filter()
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return -1, fmt.Errorf("seccomp filter: %w", errno)
	}
	return int(r), nil
}

// notification is struct seccomp_notif (seccomp_unotify(2)).
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// hear returns the number of the next fatal call, once poll has said that there
// is one.
func hear(listener int) (nr int, err error) {
	var n notification
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, errno
	}
	return int(n.nr), nil
}

// callName is a fatal call's name.
func callName(nr int) string {
	return cmp.Or(fatal[uint32(nr)], fatalHere[uint32(nr)], fmt.Sprintf("number %d", nr))
}
