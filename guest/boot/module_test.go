package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNetworkDeviceIsSeen(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	add := func(name, kind string) {
		dir := filepath.Join(sys, "bus/virtio/devices", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "device"), []byte(kind+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if hasNIC(sys) {
		t.Error("a machine without devices has a network device")
	}
	add("virtio0", "0x0003")
	add("virtio1", "0x0002")
	if hasNIC(sys) {
		t.Error("a console or a drive is taken for a network device")
	}
	add("virtio2", "0x0001")
	if !hasNIC(sys) {
		t.Error("the network device is not seen")
	}
}
