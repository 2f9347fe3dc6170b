package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

func versionIsNotEmpty(t *testing.T, s Setup) {
	v, err := s.Driver.Version(t.Context())
	if err != nil || v == "" || s.Driver.Name() == "" {
		t.Errorf("%q has version %q, %v", s.Driver.Name(), v, err)
	}
}

func invalidConfigsAreRefused(t *testing.T, s Setup) {
	for name, spoil := range map[string]func(*vmm.Config){
		"no id":                func(c *vmm.Config) { c.ID = "" },
		"id with comma":        func(c *vmm.Config) { c.ID = "a,debug-threads=on" },
		"no directory":         func(c *vmm.Config) { c.Dir = filepath.Join(c.Dir, "none") },
		"accel auto":           func(c *vmm.Config) { c.Accel = dayfly.Auto },
		"no cpus":              func(c *vmm.Config) { c.CPUs = 0 },
		"too many cpus":        func(c *vmm.Config) { c.CPUs = dayfly.MaxCPUs + 1 },
		"little memory":        func(c *vmm.Config) { c.MemoryMiB = 32 },
		"no kernel":            func(c *vmm.Config) { c.Kernel = filepath.Join(c.Dir, "none") },
		"no initramfs":         func(c *vmm.Config) { c.Initramfs = "" },
		"bad parameter":        func(c *vmm.Config) { c.Cmdline = []string{"a b"} },
		"long parameters":      func(c *vmm.Config) { c.Cmdline = []string{strings.Repeat("a", vmm.MaxCmdline)} },
		"no drive":             func(c *vmm.Config) { c.Drives = []vmm.Drive{{Path: filepath.Join(c.Dir, "none")}} },
		"drive is a directory": func(c *vmm.Config) { c.Drives = []vmm.Drive{{Path: c.Dir}} },
		"drive twice":          func(c *vmm.Config) { c.Drives = append(c.Drives, c.Drives...) },
		"too many drives": func(c *vmm.Config) {
			for len(c.Drives) <= vmm.MaxDrives {
				c.Drives = append(c.Drives, vmm.Drive{Path: c.Drives[0].Path, ReadOnly: true})
			}
		},
		"no tap":         func(c *vmm.Config) { c.NICs = []vmm.NIC{{MAC: firstMAC}} },
		"long tap":       func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "sixteen-bytes-it", MAC: firstMAC}} },
		"tap is pattern": func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap%d", MAC: firstMAC}} },
		"tap is path":    func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "..", MAC: firstMAC}} },
		"no address":     func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0"}} },
		"short address":  func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: "06:00:00:00:00"}} },
		"long address":   func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: firstMAC + ":00:00"}} },
		"other notation": func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: "06-00-0a-00-00-02"}} },
		"group address":  func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: "07:00:0a:00:00:02"}} },
		"zero address":   func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: "00:00:00:00:00:00"}} },
		"tap twice":      func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: firstMAC}, {TAP: "tap0", MAC: secondMAC}} },
		"address twice":  func(c *vmm.Config) { c.NICs = []vmm.NIC{{TAP: "tap0", MAC: firstMAC}, {TAP: "tap1", MAC: firstMAC}} },
		"too many nics":  func(c *vmm.Config) { c.NICs = manyNICs(vmm.MaxNICs + 1) },
		"negative limit": func(c *vmm.Config) { c.Drives[0].Limit.ReadBytes = -1 },
		"immense limit":  func(c *vmm.Config) { c.Drives[0].Limit.WriteOps = 1 << 62 },
		"short burst":    func(c *vmm.Config) { c.Drives[0].Limit.Burst = time.Millisecond },
		"too many devices": func(c *vmm.Config) {
			c.NICs = manyNICs(vmm.MaxNICs)
			for len(c.Drives)+len(c.NICs) <= vmm.MaxDevices {
				c.Drives = append(c.Drives, vmm.Drive{Path: c.Kernel, ReadOnly: true})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.config(t, 1<<20)
			dir := c.Dir
			spoil(&c)
			m, err := s.Driver.Launch(t.Context(), c)
			if err == nil {
				_ = m.Close()
			}
			wantKind(t, err, dayfly.Invalid)
			wantEmpty(t, dir)
		})
	}
}

func manyNICs(n int) (nics []vmm.NIC) {
	for i := range n {
		nics = append(nics, vmm.NIC{TAP: fmt.Sprintf("tap%d", i), MAC: fmt.Sprintf("06:00:0a:00:00:%02x", i)})
	}
	return nics
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
}

// cancelledLaunchLeavesNothing cancels at several moments of a launch; which
// step each meets does not matter.
func cancelledLaunchLeavesNothing(t *testing.T, s Setup) {
	for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 15 * time.Millisecond, 40 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		c := s.config(t, 1<<20)
		m, err := s.Driver.Launch(ctx, c)
		if err == nil { // it was faster than that
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Launch = %v, want %v", err, context.DeadlineExceeded)
		}
		wantEmpty(t, c.Dir)
		if s.Orphans == nil {
			continue
		}
		if pids, err := s.Orphans(c.Dir); err != nil || len(pids) > 0 {
			t.Errorf("still running: %v, %v", pids, err)
		}
	}
}

func longDirectoryWorks(t *testing.T, s Setup) {
	c := s.config(t)
	c.Dir = filepath.Join(c.Dir, strings.Repeat("long, and with a comma ", 8))
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k := meet(t, s.launch(t, c))
	if got := k.must("echo hi"); got != "hi" {
		t.Errorf("echo says %q", got)
	}
	if s.Orphans == nil {
		return
	}
	if pids, err := s.Orphans(c.Dir); err != nil || len(pids) != 1 {
		t.Errorf("Orphans = %v, %v; want one process", pids, err)
	}
}
