package kernel

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"strings"
	"testing"
)

func TestVmlinuxComesOutOfEveryCompression(t *testing.T) {
	t.Parallel()
	want := testKernel(pvhNote, strings.Repeat("kernel text ", 10_000))
	for name, compress := range compressions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Vmlinux(bytes.NewReader(bzImage(compress(t, want))))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("Vmlinux = %d bytes, %v; want the %d that went in", len(got), err, len(want))
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if got, err := Vmlinux(bytes.NewReader(want)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Vmlinux of an ELF kernel = %d bytes, %v; want it unchanged", len(got), err)
		}
	})
}

// The kernel's build filters x86 code before it compresses with xz, which not
// every decompressor can undo. testdata/x86-filter.xz was made with
// "xz --check=crc32 --x86 --lzma2=dict=1MiB".
func TestXZUndoesTheX86Filter(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/x86-filter.xz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := newXZ(f)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, likeCode()) {
		t.Fatalf("unpacked %d bytes, %v; want the %d that were packed", len(got), err, len(likeCode()))
	}
}

// likeCode returns bytes that are rich in what the filter works on: the opcodes
// of CALL and JMP with operands of all sizes.
func likeCode() []byte {
	const size = 6000
	var b []byte
	for x := uint32(1); len(b) < size; {
		x = x*1664525 + 1013904223 // Numerical Recipes' generator
		switch x >> 30 {
		case 0:
			b = binary.LittleEndian.AppendUint32(append(b, 0xe8), uint32(int32(x<<8)>>12))
		case 1:
			b = append(b, 0xe9, byte(x>>20), byte(x>>12), 0, 0xff*byte(x>>8&1))
		default:
			b = append(b, byte(x>>16))
		}
	}
	return b
}

func TestVmlinuxRefusesWhatIsNoKernel(t *testing.T) {
	t.Parallel()
	good := testKernel(pvhNote, strings.Repeat("text", 1000))
	image := bzImage(compressions["zstd"](t, good))
	patched := func(at int, v uint32) []byte {
		b := bytes.Clone(image)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	lying := compressions["gzip"](t, good)
	binary.LittleEndian.PutUint32(lying[len(lying)-4:], maxVmlinux+1)
	for name, tt := range map[string]struct {
		image []byte
		want  string
	}{
		"nothing":             {nil, "not a Linux kernel"},
		"text":                {[]byte(strings.Repeat("hello ", 1000)), "not a Linux kernel"},
		"cut short":           {image[:len(image)/2], "cut short"},
		"payload out of it":   {patched(payloadOffset, 1<<31), "cut short"},
		"endless payload":     {patched(payloadLength, 1<<32-1), "cut short"},
		"old protocol":        {patched(setupVersion, 0x0200), "boot protocol"},
		"unknown compression": {bzImage([]byte("BZh9, no longer in use")), "is not known"},
		"huge":                {bzImage(lying), "are accepted"},
		"wrong size":          {bzImage(append(compressions["zstd"](t, good), 1)), "payload"},
		"no ELF inside":       {bzImage(compressions["gzip"](t, []byte("no kernel at all"))), "unpacked kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Vmlinux(bytes.NewReader(tt.image)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Vmlinux = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func FuzzVmlinux(f *testing.F) {
	for _, compress := range compressions {
		f.Add(bzImage(compress(f, testKernel(pvhNote, "text"))))
	}
	f.Add(testKernel(pvhNote, ""))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Vmlinux(bytes.NewReader(b)); err == nil && !isELF(got) {
			t.Errorf("%q passes for a kernel", got[:min(len(got), 16)])
		}
	})
}
