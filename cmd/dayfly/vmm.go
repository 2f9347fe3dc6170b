package main

import (
	"errors"

	"github.com/dayfly/dayfly"
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
