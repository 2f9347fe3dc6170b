package firecracker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/firecracker/standin"
	"github.com/dayfly/dayfly/vmm/vmmtest"
)

func TestMain(m *testing.M) {
	standin.Main()
	goleak.VerifyTestMain(m)
}

// kernelAt is where a kernel is in a guest's memory, and banner what it has there.
const (
	kernelAt = 16 << 20
	banner   = "Linux version 6.12.0-stand-in (nobody@nowhere) #1 SMP"
)

// vmlinux makes an ELF file with one segment, whose place is that of a kernel.
func vmlinux(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	const header, program = 64, 56
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(kernelAt), uint64(header), uint64(0), uint32(0),
		uint16(header), uint16(program), uint16(1), uint16(64), uint16(0), uint16(0),
		// The program header: to load, readable.
		uint32(1), uint32(4), uint64(header + program), uint64(kernelAt), uint64(kernelAt), uint64(len(banner)), uint64(len(banner)), uint64(4096),
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(banner)
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func initramfs(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// strict installs a stand-in without faults that fails the test for whatever is
// wrong about a request.
func strict(t *testing.T) string {
	t.Helper()
	program := standin.Install(t, standin.Faults{})
	t.Cleanup(func() {
		for _, v := range standin.Violations(t, program) {
			t.Errorf("Firecracker's API does not allow it: %s", v)
		}
	})
	return program
}

// TestConformanceOfStandIn runs the suite over a stand-in: it shows that the
// driver keeps its promises and Firecracker's API, not that a guest boots.
func TestConformanceOfStandIn(t *testing.T) {
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		return vmmtest.Setup{
			Driver: firecracker.New(firecracker.Options{Binary: strict(t)}), Accel: dayfly.KVM,
			Kernel: vmlinux(t), Initramfs: initramfs(t), Processes: true,
			RawDrives: true, SaveHangsUp: true,
			Orphans:     func(dir string) ([]int, error) { return firecracker.Orphans(context.Background(), dir) },
			KillOrphans: func(dir string) error { return firecracker.KillOrphans(context.Background(), dir) },
		}
	})
}
