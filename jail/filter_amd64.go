package jail

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64

	// foreignNumbers and above are those of the x32 calls, which have other
	// numbers for what is filtered here.
	foreignNumbers = 0x40000000
)

// refusedHere and fatalHere are calls that other architectures have not.
var (
	refusedHere = []uint32{unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD, unix.SYS_MODIFY_LDT}
	fatalHere   = map[uint32]string{
		unix.SYS_IOPL: "iopl", unix.SYS_IOPERM: "ioperm", unix.SYS_CREATE_MODULE: "create_module", unix.SYS_USELIB: "uselib", unix.SYS__SYSCTL: "_sysctl",
	}
)
