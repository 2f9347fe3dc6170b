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
	kvm         error // why /dev/kvm cannot be opened; nil: it can
}

// chooseVMM returns the name of the VMM that new machines are made with.
// Firecracker has the smaller surface, and is chosen by itself where it is there;
// node proves that a guest runs on it, and takes QEMU where none does. Asked for
// by name, it is refused where it cannot be.
func chooseVMM(want string, found vmmFound) (string, error) {
	switch want {
	case vmmQEMU:
		return vmmQEMU, nil
	case vmmAuto, "":
		if found.firecracker == nil && found.kvm == nil {
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

// drivers are those of this host.
type drivers struct {
	first    vmm.Driver
	others   []vmm.Driver // of what the first has not made
	fallback bool         // they make what the first cannot
}

// drivers makes them. That Firecracker is there costs a command the running of
// it, for its version.
func (h *host) drivers(ctx context.Context) (drivers, error) {
	fc := firecracker.New(firecracker.Options{Binary: h.firecracker, Log: h.log})
	q := qemu.New(qemu.Options{Log: h.log, VersionCache: filepath.Join(h.dir, "qemu.json")})
	var found vmmFound
	if h.vmm != vmmQEMU {
		if found.kvm = kvmOpens(); found.kvm == nil || h.vmm == vmmFirecracker {
			_, found.firecracker = fc.Version(ctx)
		}
	}
	name, err := chooseVMM(h.vmm, found)
	if err != nil {
		return drivers{}, err
	}
	if name == vmmFirecracker {
		return drivers{fc, []vmm.Driver{q}, h.vmm != vmmFirecracker}, nil
	}
	return drivers{first: q, others: []vmm.Driver{fc}}, nil
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
