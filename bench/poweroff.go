package main

import (
	"encoding/binary"
	"syscall"

	"github.com/dayfly/dayfly/kernel"
)

// powerOffELF is the smallest pid 1: a static x86-64 program whose only act is
// reboot(2), so that a bare boot measures the kernel and nothing of ours.
func powerOffELF() []byte {
	le := binary.LittleEndian
	code := []byte{0xb8} // mov eax, SYS_reboot
	code = le.AppendUint32(code, syscall.SYS_REBOOT)
	code = le.AppendUint32(append(code, 0xbf), 0xfee1dead) // mov edi, LINUX_REBOOT_MAGIC1
	code = le.AppendUint32(append(code, 0xbe), 672274793)  // mov esi, LINUX_REBOOT_MAGIC2
	code = le.AppendUint32(append(code, 0xba), 0x01234567) // mov edx, LINUX_REBOOT_CMD_RESTART
	code = append(code, 0x0f, 0x05)                        // syscall
	return kernel.Program(code)
}
