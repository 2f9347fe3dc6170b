package kernel

import "encoding/binary"

// programBase is where a Program is in memory, its headers in front of its code.
const (
	programBase   = 0x400000
	programHeader = 64 + 56

	// ProgramEntry is the address of the first byte of a Program's code.
	ProgramEntry = programBase + programHeader
)

// Program is the smallest static x86-64 program that runs code: for a guest that
// is to do next to nothing. Layout: the ELF-64 header and one program header, as
// in elf(5), then the code.
func Program(code []byte) []byte {
	le := binary.LittleEndian
	b := append([]byte("\x7fELF"), 2, 1, 1) // 64-bit, little endian, version 1
	b = append(b, make([]byte, 9)...)
	b = le.AppendUint16(b, 2)  // ET_EXEC
	b = le.AppendUint16(b, 62) // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, ProgramEntry)
	b = le.AppendUint64(b, 64) // program headers
	b = le.AppendUint64(b, 0)  // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // read, execute
	size := uint64(programHeader + len(code))
	for _, v := range []uint64{0, programBase, programBase, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}
