package main

import "encoding/binary"

// idleELF is the smallest kernel: one that a VMM has loaded in no time and that
// halts at once, so that a launch is the VMM's own start and little else.
//
// Layout: the ELF-64 header and two program headers, as in elf(5), the note that
// tells where a PVH guest begins (XEN_ELFNOTE_PHYS32_ENTRY in
// xen/include/public/elfnote.h), and the code.
func idleELF() []byte {
	const (
		base   = 0x200000
		headAt = 64
		noteAt = headAt + 2*56
		codeAt = noteAt + 24
	)
	code := []byte{0xfa, 0xf4, 0xeb, 0xfc} // cli; hlt; jmp back to the cli
	le := binary.LittleEndian
	b := append([]byte("\x7fELF"), 2, 1, 1) // 64-bit, little endian, version 1
	b = append(b, make([]byte, 9)...)
	b = le.AppendUint16(b, 2)  // ET_EXEC
	b = le.AppendUint16(b, 62) // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+codeAt)
	b = le.AppendUint64(b, headAt)
	b = le.AppendUint64(b, 0) // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 2, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	segment := func(kind, flags uint32, at, size, align uint64) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, v := range []uint64{at, base + at, base + at, size, size, align} {
			b = le.AppendUint64(b, v)
		}
	}
	size := uint64(codeAt + len(code))
	segment(1, 5, 0, size, 0x1000)          // PT_LOAD, read and execute
	segment(4, 4, noteAt, codeAt-noteAt, 4) // PT_NOTE
	for _, v := range []uint32{4, 8, 18} {  // lengths of name and value, and the kind of note
		b = le.AppendUint32(b, v)
	}
	b = append(b, "Xen\x00"...)
	b = le.AppendUint64(b, base+codeAt)
	return append(b, code...)
}
