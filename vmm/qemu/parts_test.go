package qemu

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

func TestMachineDirIsFoundAgain(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/state/w1", "/with, comma,,and:colon", "/"} {
		c := vmm.Config{ID: "w1", Dir: dir, Accel: dayfly.TCG, CPUs: 1}
		line := "qemu\x00" + strings.Join(arguments(c, 0), "\x00") + "\x00"
		if id, got, ok := machineName([]byte(line)); !ok || got != dir || id != "w1" {
			t.Errorf("machineName = %q, %q, %v; want %q", id, got, ok, dir)
		}
	}
	for _, line := range []string{"", "qemu", "qemu\x00-name\x00guest=other\x00-S\x00", "sh\x00-c\x00-name guest=dayfly:w1:/state\x00x",
		"qemu\x00-name\x00guest=dayfly:w1:state\x00-S\x00", "qemu\x00-name\x00guest=dayfly:w1\x00-S\x00"} {
		if id, got, ok := machineName([]byte(line)); ok {
			t.Errorf("machineName of %q = %q, %q", line, id, got)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add([]byte("qemu\x00-name\x00guest=dayfly:w1:/state\x00-S\x00-blockdev\x00{\"file\":{\"filename\":\"/x\"}}\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, dir, ok := machineName(b); ok && (!filepath.IsAbs(dir) || strings.Contains(id, ":")) {
			t.Errorf("machineName = %q, %q", id, dir)
		}
		(&adoption{args: strings.Split(string(b), "\x00")}).launched()
	})
}

func TestEmulatedKernelIsToldTheClock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		accel  dayfly.Accel
		params []string
		cpus   int
		khz    int
		want   string
	}{
		{dayfly.TCG, nil, 1, 2_600_000, "tsc_early_khz=2600000"},
		{dayfly.TCG, []string{"acpi=off"}, 1, 2_600_000, "nolapic_timer acpi=off"},
		{dayfly.TCG, []string{"acpi=off"}, 2, 2_600_000, "no_timer_check acpi=off"},
		{dayfly.TCG, []string{"acpi=off", "lapic_timer_khz=1000000"}, 1, 2_600_000, "noreplace-smp acpi=off"},
		{dayfly.TCG, []string{"acpi=off", "lapic_timer_khz=1000000"}, 1, 0, "nolapic_timer acpi=off"},
		{dayfly.TCG, nil, 1, 0, ""}, // unknown: the guest measures
		{dayfly.KVM, nil, 1, 2_600_000, ""},
	} {
		got := strings.Join(kernelParams(vmm.Config{Accel: c.accel, CPUs: c.cpus, Cmdline: c.params}, c.khz), " ")
		if !strings.Contains(got, c.want) || c.want == "" && strings.Contains(got, "tsc") {
			t.Errorf("%s with %d kHz: %q, want %q in it", c.accel, c.khz, got, c.want)
		}
	}
}

// TestTSCRateIsTheSameTwice compares two independent readings: what one of
// them got wrong by being interrupted would show.
func TestTSCRateIsTheSameTwice(t *testing.T) {
	t.Parallel()
	a, b := newTSCRate().KHz(), newTSCRate().KHz()
	if a == 0 {
		t.Skip("needs: tsc: this processor has no time stamp counter that can be read: use x86-64")
	}
	if diff := math.Abs(float64(a-b)) / float64(a); diff > 0.001 {
		t.Errorf("rates %d and %d kHz differ by %.4f", a, b, diff)
	}
}

func TestDrivesOfACommandLineAreReadAgain(t *testing.T) {
	t.Parallel()
	want := []vmm.Drive{
		{Path: "/images/root, \"quoted\"", ReadOnly: true},
		{Path: "/w/disk"},
		{Path: "/w/disk.2", Below: []string{"/w/disk.1", "/w/disk"}},
	}
	args := append([]string{"qemu"}, arguments(vmm.Config{ID: "w1", Dir: "/w", Accel: dayfly.TCG, CPUs: 1, Drives: want}, 0)...)
	got := (&adoption{args: args}).launched()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("drives are %+v, want %+v", got, want)
	}
}

// TestTAPsAreTheLastDescriptors compares what a command line says with the order in
// which descriptors are inherited.
func TestTAPsAreTheLastDescriptors(t *testing.T) {
	t.Parallel()
	nics := []vmm.NIC{{TAP: "first-tap", MAC: "06:00:00:00:00:01"}, {TAP: "other-tap", MAC: "06:00:00:00:00:02"}}
	for first, c := range map[int]vmm.Config{
		5: {},
		6: {Memory: vmm.Memory{File: os.Stdin}},
		7: {Memory: vmm.Memory{File: os.Stdin}, State: []byte("state")},
	} {
		c.Accel, c.CPUs = dayfly.TCG, 1
		without := strings.Join(arguments(c, 0), " ")
		for _, word := range []string{"netdev", "virtio-net", "announce"} {
			if strings.Contains(without, word) {
				t.Errorf("a machine without network devices has %q: %s", word, without)
			}
		}
		c.NICs = nics
		with := strings.Join(arguments(c, 0), " ")
		for i, n := range nics {
			if !strings.Contains(with, fmt.Sprintf(`"fd":"%d","id":"nic%d"`, first+i, i)) || !strings.Contains(with, n.MAC) || strings.Contains(with, n.TAP) {
				t.Errorf("device %d is not descriptor %d: %s", i, first+i, with)
			}
		}
		if restored := len(c.State) > 0; restored != strings.Contains(with, "announce-rounds=0") {
			t.Errorf("a machine that is restored, %v, announces itself: %s", restored, with)
		}
	}
}
