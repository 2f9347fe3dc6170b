package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// The names of VMMs, for --vmm.
const (
	vmmAuto        = "auto"
	vmmQEMU        = "qemu"
	vmmFirecracker = "firecracker"
)

// vmmFound is what the choice of a VMM goes by.
type vmmFound struct {
	firecracker error // why it cannot be used; nil: it is there, and new enough
	kvm         error // why no guest is proved to run on KVM; nil: one did
	rawDisks    bool  // the node does all it promises with disks of one raw file each
}

// chooseVMM returns the name of the VMM that machines are made with. Firecracker
// has the smaller surface, and is chosen by itself where it does what QEMU does.
// Asked for by name, it is refused where it cannot be.
func chooseVMM(want string, found vmmFound) (string, error) {
	switch want {
	case vmmQEMU:
		return vmmQEMU, nil
	case vmmAuto, "":
		if found.firecracker == nil && found.kvm == nil && found.rawDisks {
			return vmmFirecracker, nil
		}
		return vmmQEMU, nil
	case vmmFirecracker:
		if err := errors.Join(found.firecracker, found.kvm); err != nil {
			return "", dayfly.Errorf(dayfly.Unavailable, "--vmm firecracker: %w", err)
		}
		return vmmFirecracker, nil
	}
	return "", dayfly.Errorf(dayfly.Invalid, "--vmm %q: use auto, qemu or firecracker", want)
}

// driver makes the machines of this host.
func (h *host) driver(ctx context.Context) (vmm.Driver, error) {
	fc := firecracker.New(firecracker.Options{Log: h.log})
	var found vmmFound
	if h.vmm == vmmFirecracker { // whether a guest runs on KVM is proved with the driver itself
		_, found.firecracker = fc.Version(ctx)
		found.kvm = kvmOpens()
	}
	name, err := chooseVMM(h.vmm, found)
	if err != nil {
		return nil, err
	}
	if name == vmmFirecracker {
		if h.jail != jailOff {
			return nil, dayfly.Errorf(dayfly.Unavailable, "--vmm firecracker: it cannot be put into a jail yet: use qemu, or --jail off where no guest is hostile")
		}
		return fc, nil
	}
	return qemu.New(qemu.Options{Log: h.log, VersionCache: filepath.Join(h.dir, "qemu.json")}), nil
}

func kvmOpens() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// orphans lists the machines below a directory that no process owns any more,
// whichever VMM they are of: an earlier server may have had another.
func orphans(ctx context.Context, dir string) ([]int, error) {
	a, err := qemu.Orphans(ctx, dir)
	b, other := firecracker.Orphans(ctx, dir)
	return slices.Concat(a, b), errors.Join(err, other)
}

func killOrphans(ctx context.Context, dir string) error {
	return errors.Join(qemu.KillOrphans(ctx, dir), firecracker.KillOrphans(ctx, dir))
}
