package qemu_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// TestLayerHalfPushedIsInNobodysWay: the owner dies when QEMU has the new layer,
// and has not laid it over the others yet.
func TestLayerHalfPushedIsInNobodysWay(t *testing.T) {
	t.Parallel()
	b := fromState(t)
	d := qemu.New(qemu.Options{})
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := vmm.CreateLayer(filepath.Join(dir, "disk.1"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := vmm.Config{
		ID: "stray", Dir: t.TempDir(), Accel: dayfly.TCG, CPUs: 1, MemoryMiB: 256, Orphan: true,
		Kernel: b.Vmlinux, Initramfs: b.Initramfs, Cmdline: b.Cmdline, Drives: []vmm.Drive{{Path: disk}},
	}
	m, err := d.Launch(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.AddLayerOnly(t.Context(), m, 0, filepath.Join(dir, "disk.1")); err != nil {
		t.Fatal(err)
	}
	if err := m.Detach(); err != nil {
		t.Fatal(err)
	}
	m, err = d.Adopt(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if has, err := m.Drive(t.Context(), 0); err != nil || has.Path != disk || has.Below != nil {
		t.Errorf("the drive is %+v, %v", has, err)
	}
	if err := m.PushLayer(t.Context(), 0, filepath.Join(dir, "disk.2")); err != nil {
		t.Errorf("PushLayer: %v", err)
	}
}
