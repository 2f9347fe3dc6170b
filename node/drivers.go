package node

import (
	"context"
	"errors"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/vmm"
)

// A host may have more than one VMM. What was made with one - a machine that
// runs, a template, a pause, a snapshot - goes on with that, whichever is
// preferred by now. New machines are made with Config.Driver, or with the first
// of the Others that can where that may be.

// drivers are all that there are, the preferred one first.
func (n *Node) drivers() []vmm.Driver { return append([]vmm.Driver{n.Driver}, n.Others...) }

// driverOf is the driver of that name. Where there is none it is the preferred
// one, which says what is wrong with what another has made.
func (n *Node) driverOf(name string) vmm.Driver {
	for _, d := range n.drivers() {
		if d.Name() == name {
			return d
		}
	}
	return n.Driver
}

// lacks is what a machine does without that was made so.
func (n *Node) lacks(made snapshot.Machine) vmm.Lacks { return vmm.LacksOf(n.driverOf(made.VMM)) }

// choice is what a new machine is made with.
type choice struct {
	driver vmm.Driver
	accel  dayfly.Accel
}

// choose says what a new machine is to be made with. layered says that its disk
// has layers. The error is that of the preferred driver.
func (n *Node) choose(ctx context.Context, want dayfly.Accel, boot kernel.Boot, layered bool) (c choice, err error) {
	list := n.drivers()
	if !n.Fallback {
		list = list[:1]
	}
	for i, d := range list {
		accel, no := n.serves(ctx, d, want, boot, layered)
		switch {
		case no == nil:
			return choice{d, accel}, nil
		case ctx.Err() != nil:
			return c, context.Cause(ctx)
		case i == 0:
			err = no
		}
		n.Log.Debug("another VMM is looked for", "vmm", d.Name(), "err", no)
	}
	return c, err
}

// serves says by which accelerator a driver makes such a machine here, or why not.
func (n *Node) serves(ctx context.Context, d vmm.Driver, want dayfly.Accel, boot kernel.Boot, layered bool) (dayfly.Accel, error) {
	lacks := vmm.LacksOf(d)
	if layered && lacks.Layers {
		return "", hasLayers()
	}
	if !lacks.Emulation {
		return n.accel(ctx, d, want, boot)
	}
	if want == dayfly.TCG {
		return "", dayfly.Errorf(dayfly.Invalid, "%s runs guests on kvm alone: use qemu, or --accel kvm", d.Name())
	}
	accel, err := n.accel(ctx, d, dayfly.KVM, boot)
	var e *dayfly.Error
	if errors.As(err, &e) && want == dayfly.Auto {
		return "", dayfly.Errorf(e.Kind, "%s runs guests on kvm alone, and %s: use qemu", d.Name(), firstLine(err))
	}
	return accel, err
}

// layered reports whether the disk that the machine is to have has layers.
func (s *start) layered() (bool, error) {
	if s.origin != nil {
		return len(s.origin.layers) > 1, nil
	}
	if s.fresh {
		return false, nil
	}
	layers, err := chain(s.w.dir)
	return len(layers) > 1, err
}
