package standin

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Where a kernel is in a guest's memory, and what it has there.
const (
	KernelAt = 16 << 20
	Banner   = "Linux version 6.12.0-stand-in (nobody@nowhere) #1 SMP"
)

// Kernel makes a kernel to boot: an ELF file with one segment, whose place is that
// of a kernel.
func Kernel(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	const header, program = 64, 56
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(KernelAt), uint64(header), uint64(0), uint32(0),
		uint16(header), uint16(program), uint16(1), uint16(64), uint16(0), uint16(0),
		// The program header: to load, readable.
		uint32(1), uint32(4), uint64(header + program), uint64(KernelAt), uint64(KernelAt), uint64(len(Banner)), uint64(len(Banner)), uint64(4096),
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(Banner)
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
