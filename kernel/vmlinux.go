package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

const (
	maxImage   = 256 << 20 // bytes of a bzImage; Debian's largest is about 15 MB
	maxVmlinux = 512 << 20 // bytes of an uncompressed kernel; Debian's is about 60 MB
)

// Offsets into the setup header of a bzImage:
// https://docs.kernel.org/arch/x86/boot.html#the-real-mode-kernel-header
const (
	setupSects    = 0x1f1
	setupMagic    = 0x202 // "HdrS"
	setupVersion  = 0x206
	payloadOffset = 0x248
	payloadLength = 0x24c
	setupEnd      = 0x250

	sectorSize     = 512
	payloadVersion = 0x208 // first protocol version that says where the payload is
)

var errNoKernel = errors.New("not a Linux kernel: neither a bzImage nor an ELF file")

// Vmlinux returns the uncompressed ELF kernel inside a bzImage compressed with
// gzip, xz, zstd or lz4, or r's content where that is an ELF file already. Input
// and output are bounded; the kernel is not checked beyond its ELF header.
func Vmlinux(r io.Reader) ([]byte, error) {
	image, err := io.ReadAll(io.LimitReader(r, maxImage+1))
	if err != nil {
		return nil, fmt.Errorf("kernel image: %w", err)
	}
	if len(image) > maxImage {
		return nil, fmt.Errorf("kernel image: more than %d bytes", maxImage)
	}
	if !isELF(image) {
		if image, err = unpackPayload(image); err != nil {
			return nil, fmt.Errorf("kernel image: %w", err)
		}
	}
	if err := checkELF(image); err != nil {
		return nil, fmt.Errorf("kernel image: %w", err)
	}
	return image, nil
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte(elf.ELFMAG)) }

func checkELF(b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("unpacked kernel: %w", err)
	}
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("unpacked kernel is for %s %s, want an x86-64 executable", f.Machine, f.Type)
	}
	return nil
}

// payload finds the compressed kernel in a bzImage.
func payload(image []byte) ([]byte, error) {
	if len(image) < setupEnd || string(image[setupMagic:setupMagic+4]) != "HdrS" {
		return nil, errNoKernel
	}
	if v := binary.LittleEndian.Uint16(image[setupVersion:]); v < payloadVersion {
		return nil, fmt.Errorf("bzImage of boot protocol %#x, want %#x or later", v, payloadVersion)
	}
	sects := int64(image[setupSects])
	if sects == 0 {
		sects = 4 // by the boot protocol
	}
	from := (sects+1)*sectorSize + int64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	n := int64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if from+n > int64(len(image)) || n < 8 {
		return nil, errors.New("bzImage is cut short")
	}
	return image[from : from+n], nil
}

// unpackPayload decompresses a bzImage's kernel. Whatever the method, the
// payload ends with the kernel's uncompressed size in 4 bytes (gzip has it by
// itself, the kernel's build appends it for the others).
func unpackPayload(image []byte) ([]byte, error) {
	p, err := payload(image)
	if err != nil {
		return nil, err
	}
	body, size := p[:len(p)-4], int64(binary.LittleEndian.Uint32(p[len(p)-4:]))
	r, err := payloadReader(p, body)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxVmlinux {
		return nil, fmt.Errorf("kernel of %d bytes, at most %d are accepted", size, maxVmlinux)
	}
	// Grown as it is read: a lying size field must not cost half a gigabyte.
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, size+1))
	if err != nil {
		return nil, fmt.Errorf("bzImage payload: %w", err)
	}
	if n != size {
		return nil, fmt.Errorf("bzImage payload: %d bytes unpacked, its header says %d", n, size)
	}
	return out.Bytes(), nil
}

// payloadReader picks the decompressor by magic number. whole is the payload
// with its last 4 bytes, which belong to a gzip stream and to no other.
func payloadReader(whole, body []byte) (io.ReadCloser, error) {
	switch {
	case bytes.HasPrefix(whole, []byte{0x1f, 0x8b}):
		return gzip.NewReader(bytes.NewReader(whole))
	case bytes.HasPrefix(body, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return newZstd(bytes.NewReader(body))
	case bytes.HasPrefix(body, []byte(xzMagic)):
		r, err := newXZ(bytes.NewReader(body))
		return io.NopCloser(r), err
	case bytes.HasPrefix(body, []byte{0x02, 0x21, 0x4c, 0x18}): // legacy frame
		return io.NopCloser(lz4.NewReader(bytes.NewReader(body))), nil
	}
	return nil, fmt.Errorf("bzImage payload: compression %x is not known (gzip, xz, zstd and lz4 are)", whole[:4])
}

const xzMagic = "\xfd7zXZ\x00"

// newXZ reads what the kernel's build writes: the x86 filter and a dictionary
// of up to 128 MiB (scripts/xz_wrap.sh).
func newXZ(r io.Reader) (io.Reader, error) {
	return xz.NewReader(r, 128<<20)
}

// newZstd reads what the kernel's "zstd -22 --ultra" writes: windows of up to
// 128 MiB (scripts/Makefile.lib).
func newZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}
