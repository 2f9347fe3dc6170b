package jail

import "golang.org/x/sys/unix"

const (
	auditArch      = unix.AUDIT_ARCH_AARCH64
	foreignNumbers = 0x40000000
)

// refusedHere and fatalHere are calls that other architectures have not.
var (
	refusedHere []uint32
	fatalHere   map[uint32]string
)
