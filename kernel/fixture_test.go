package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

const (
	testRelease = "6.12.9+test-cloud-amd64"
	pvhNote     = "\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00\x00\x00\x00\x01"
)

// testKernel is the smallest thing that passes for a kernel: an ELF header, one
// program header and a PVH note. filler makes kernels differ.
func testKernel(notes, filler string) []byte {
	const headers = 64 + 56
	var b bytes.Buffer
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	le := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	le(elf.Header64{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1})
	le(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: headers, Filesz: uint64(len(notes)), Memsz: uint64(len(notes)), Align: 4})
	b.WriteString(notes + filler)
	return b.Bytes()
}

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	const sects, offset = 3, 0x100
	b := make([]byte, (sects+1)*sectorSize+offset)
	b[setupSects] = sects
	copy(b[setupMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[setupVersion:], 0x20f)
	binary.LittleEndian.PutUint32(b[payloadOffset:], offset)
	binary.LittleEndian.PutUint32(b[payloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "what follows the payload"...)
}

// compressions is every way a kernel's payload may be compressed.
var compressions = map[string]func(t testing.TB, b []byte) []byte{
	"gzip": func(t testing.TB, b []byte) []byte {
		return packed(t, b, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	},
	"xz": func(t testing.TB, b []byte) []byte {
		return sized(b, packed(t, b, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }))
	},
	"zstd": func(t testing.TB, b []byte) []byte {
		return sized(b, packed(t, b, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }))
	},
	"lz4": func(t testing.TB, b []byte) []byte {
		return sized(b, packed(t, b, func(w io.Writer) (io.WriteCloser, error) {
			z := lz4.NewWriter(w)
			return z, z.Apply(lz4.LegacyOption(true))
		}))
	},
}

func packed(t testing.TB, b []byte, by func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := by(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// sized appends the size of the kernel, as scripts/Makefile.lib does.
func sized(kernel, payload []byte) []byte {
	return binary.LittleEndian.AppendUint32(payload, uint32(len(kernel)))
}

// testModule is a kernel module with a .modinfo section and nothing else.
func testModule(info ...string) []byte {
	var text bytes.Buffer
	for _, i := range info {
		text.WriteString(i + "\x00")
	}
	const names = "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	le := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	n := uint64(text.Len())
	le(elf.Header64{Ident: ident, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: 64 + n + uint64(len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2})
	b.Write(text.Bytes())
	b.WriteString(names)
	le(elf.Section64{})
	le(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: n, Addralign: 1})
	le(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: 64 + n, Size: uint64(len(names)), Addralign: 1})
	return b.Bytes()
}

// signed appends a signature as scripts/sign-file does.
func signed(ko []byte) []byte {
	const signature = "a signature"
	ko = append(bytes.Clone(ko), signature...)
	ko = append(ko, 0, 0, 2, 0, 0, 0, 0, 0)
	ko = binary.BigEndian.AppendUint32(ko, uint32(len(signature)))
	return append(ko, signatureMark...)
}

// member is a file of a test package.
type member struct {
	name string
	data []byte
}

// testPackage is a package with a kernel and the modules that a guest wants.
func testPackage(t testing.TB, filler string) []member {
	lib := "./lib/modules/" + testRelease + "/"
	xzed := func(b []byte) []byte {
		return packed(t, b, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	}
	return []member{
		{"./boot/vmlinuz-" + testRelease, bzImage(compressions["zstd"](t, testKernel(pvhNote, filler)))},
		{"./boot/config-" + testRelease, []byte("CONFIG_PVH=y\n")},
		{lib + "modules.builtin", []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/char/virtio_console.ko\n")},
		{lib + "kernel/drivers/block/virtio_blk.ko.xz", xzed(signed(testModule("name=virtio_blk", "depends=")))},
		{lib + "kernel/drivers/md/dm-crypt.ko.xz", xzed(testModule("depends=dm-mod", "softdep=pre: libaes post: other"))},
		{lib + "kernel/drivers/md/dm-mod.ko.xz", xzed(testModule("depends="))},
		{lib + "kernel/lib/libaes.ko", testModule("depends=")},
		{lib + "kernel/fs/unwanted.ko.xz", xzed(testModule("depends="))},
	}
}

// writeDeb writes a Debian package of files whose data is compressed with gzip.
func writeDeb(t testing.TB, files []member) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "linux-image-test_amd64.deb")
	if err := os.WriteFile(path, debBytes(t, files), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func debBytes(t testing.TB, files []member) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := []byte(arMagic)
	b = arMember(b, "debian-binary", []byte("2.0\n"))
	b = arMember(b, "control.tar.gz", []byte("odd"))
	return arMember(b, "data.tar.gz", compressions["gzip"](t, data.Bytes()))
}

func arMember(b []byte, name string, data []byte) []byte {
	b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	b = append(b, data...)
	if len(data)%2 == 1 {
		b = append(b, '\n')
	}
	return b
}
