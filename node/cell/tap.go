package cell

import (
	"os"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/vmm"
)

// taps opens the TAP devices that a VMM has as descriptors. One that opens them
// by name is to live where they are.
func (c *Cell) taps(cmd vmm.Command, spec *jail.Spec) (open []*os.File, err error) {
	if len(cmd.TAPs) == 0 {
		return nil, nil
	}
	if cmd.NamesTAPs {
		if c.network == nil {
			return nil, dayfly.Errorf(dayfly.Unavailable, "this VMM opens TAP devices by itself, and may not live in this host's network: put them into a network namespace, or use qemu")
		}
		spec.Network = c.network
		return nil, nil
	}
	err = jail.Within(c.network, func() error {
		for _, name := range cmd.TAPs {
			f, err := vmm.OpenTAP(name)
			if err != nil {
				return err
			}
			open = append(open, f)
		}
		return nil
	})
	if err != nil {
		closeAll(open)
		return nil, err
	}
	return open, nil
}

// give makes the jail's user the one who may open the devices. They stay that
// user's: who has them next is made theirs in turn.
func (c *Cell) give(cmd vmm.Command, j *jail.Jail) error {
	if !cmd.NamesTAPs {
		return nil
	}
	return jail.Within(c.network, func() error {
		for _, name := range cmd.TAPs {
			if err := vmm.GiveTAP(name, j.UID()); err != nil {
				return err
			}
		}
		return nil
	})
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
