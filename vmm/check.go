package vmm

import (
	"os"
	"strings"

	"github.com/dayfly/dayfly"
)

// Bounds of a Config beyond those of a dayfly.Spec.
const (
	MaxDevices = 7    // drives and NICs: a microvm without ACPI has 8 virtio-mmio slots, and the channel takes one
	MaxDrives  = 7    // where there are no NICs
	MaxNICs    = 4    // so that root and disk have their places beside them
	MaxID      = 64   // bytes
	MaxCmdline = 1536 // bytes of added kernel parameters; the kernel takes 2047 in all
)

// Check returns an Invalid error naming what in c can never work. Every driver
// calls it first, so that all refuse alike. It looks at files but opens none.
func (c Config) Check() error {
	switch {
	case c.ID == "" || len(c.ID) > MaxID || strings.ContainsFunc(c.ID, notIDRune):
		return dayfly.Errorf(dayfly.Invalid, "machine id %q: use 1 to %d letters, digits, - and _", c.ID, MaxID)
	case c.Accel != dayfly.KVM && c.Accel != dayfly.TCG:
		return dayfly.Errorf(dayfly.Invalid, "machine accel is %q: choose kvm or tcg", c.Accel)
	case c.CPUs < 1 || c.CPUs > dayfly.MaxCPUs:
		return dayfly.Errorf(dayfly.Invalid, "machine has %d cpus: use 1 to %d", c.CPUs, dayfly.MaxCPUs)
	case len(c.Drives) > MaxDrives:
		return dayfly.Errorf(dayfly.Invalid, "machine has %d drives: use at most %d", len(c.Drives), MaxDrives)
	}
	if fi, err := os.Stat(c.Dir); err != nil || !fi.IsDir() {
		return invalid("the machine's directory is not there", err)
	}
	if err := c.checkCmdline(); err != nil {
		return err
	}
	if err := c.checkBoot(); err != nil {
		return err
	}
	if err := c.checkMemory(); err != nil {
		return err
	}
	if err := c.checkNICs(); err != nil {
		return err
	}
	return c.checkDrives()
}

func (c Config) checkMemory() error {
	if len(c.State) > MaxState {
		return dayfly.Errorf(dayfly.Invalid, "the saved state is %d bytes: at most %d can be", len(c.State), MaxState)
	}
	if c.Memory.Fill != nil && (len(c.State) == 0 || c.Memory.Shared) {
		return dayfly.Errorf(dayfly.Invalid, "only the memory of a restored machine is filled")
	}
	if c.Memory.File == nil {
		if len(c.State) > 0 {
			return dayfly.Errorf(dayfly.Invalid, "a saved state needs the memory that was saved with it")
		}
		return nil
	}
	fi, err := c.Memory.File.Stat()
	if err != nil {
		return invalid("the machine's memory is not there", err)
	}
	if want := int64(c.MemoryMiB) << 20; fi.Size() != want {
		return dayfly.Errorf(dayfly.Invalid, "the machine's memory has %d bytes: it needs %d", fi.Size(), want)
	}
	return nil
}

func (c Config) checkCmdline() error {
	size := 0
	for _, p := range c.Cmdline {
		if p == "" || strings.ContainsFunc(p, notParamRune) {
			return dayfly.Errorf(dayfly.Invalid, "kernel parameter %q: use printable ASCII without spaces", p)
		}
		size += len(p) + 1
	}
	if size > MaxCmdline {
		return dayfly.Errorf(dayfly.Invalid, "kernel parameters are %d bytes in all: use at most %d", size, MaxCmdline)
	}
	return nil
}

// checkBoot compares the memory with what the boot files need: each is loaded
// whole, and the initramfs is unpacked beside its archive.
func (c Config) checkBoot() error {
	kernel, err := os.Stat(c.Kernel)
	if err != nil || !kernel.Mode().IsRegular() {
		return invalid("the guest kernel is not there: see dayfly kernel ls", err)
	}
	initramfs, err := os.Stat(c.Initramfs)
	if err != nil || !initramfs.Mode().IsRegular() {
		return invalid("the guest's initramfs is not there", err)
	}
	const reserve = 32 // MiB a kernel takes for itself before it runs anything
	need := max(dayfly.MinMemoryMiB, reserve+int((kernel.Size()+2*initramfs.Size())>>20))
	if c.MemoryMiB < need || c.MemoryMiB > dayfly.MaxMemoryMiB {
		return dayfly.Errorf(dayfly.Invalid, "memory is %d MiB: this kernel needs %d to %d MiB", c.MemoryMiB, need, dayfly.MaxMemoryMiB)
	}
	return nil
}

// use is one file of a drive.
type use struct {
	file   os.FileInfo
	drive  int
	writes bool
}

func (c Config) checkDrives() error {
	var all []use
	for i, d := range c.Drives {
		if err := d.Limit.Check(); err != nil {
			return err
		}
		for layer, path := range append([]string{d.Path}, d.Below...) {
			fi, err := os.Stat(path)
			if err != nil {
				return invalid("a drive's file is not there", err)
			}
			device := fi.Mode()&os.ModeDevice != 0 && fi.Mode()&os.ModeCharDevice == 0
			if !fi.Mode().IsRegular() && !device {
				return dayfly.Errorf(dayfly.Invalid, "drive %d is neither a file nor a block device", i)
			}
			u := use{fi, i, layer == 0 && !d.ReadOnly}
			for _, other := range all {
				if os.SameFile(fi, other.file) && (u.writes || other.writes) {
					return dayfly.Errorf(dayfly.Invalid, "drives %d and %d are the same file, which one of them writes", other.drive, i)
				}
			}
			all = append(all, u)
		}
	}
	return nil
}

// invalid keeps the path, which err names, out of the message.
func invalid(msg string, err error) error {
	return &dayfly.Error{Kind: dayfly.Invalid, Msg: msg, Err: err}
}

func notIDRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

func notParamRune(r rune) bool { return r <= ' ' || r > '~' }
