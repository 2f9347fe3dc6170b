package main

import (
	"encoding/binary"
	"syscall"
)

// powerOffELF is the smallest pid 1: a static x86-64 program whose only act is
// reboot(2), so that a bare boot measures the kernel and nothing of ours.
// Layout: the ELF-64 header and one program header, as in elf(5), then code.
func powerOffELF() []byte {
	const (
		base   = 0x400000
		header = 64 + 56
	)
	le := binary.LittleEndian
	code := []byte{0xb8} // mov eax, SYS_reboot
	code = le.AppendUint32(code, syscall.SYS_REBOOT)
	code = le.AppendUint32(append(code, 0xbf), 0xfee1dead) // mov edi, LINUX_REBOOT_MAGIC1
	code = le.AppendUint32(append(code, 0xbe), 672274793)  // mov esi, LINUX_REBOOT_MAGIC2
	code = le.AppendUint32(append(code, 0xba), 0x01234567) // mov edx, LINUX_REBOOT_CMD_RESTART
	code = append(code, 0x0f, 0x05)                        // syscall

	b := append([]byte("\x7fELF"), 2, 1, 1) // 64-bit, little endian, version 1
	b = append(b, make([]byte, 9)...)
	b = le.AppendUint16(b, 2)  // ET_EXEC
	b = le.AppendUint16(b, 62) // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+header) // entry
	b = le.AppendUint64(b, 64)          // program headers
	b = le.AppendUint64(b, 0)           // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // read, execute
	size := uint64(header + len(code))
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}
