package node

import (
	"context"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/vmm"
)

const (
	// vmmMemoryMiB is what a VMM may have beside the guest's memory: 40 MiB for
	// itself, 256 MiB of translated code under emulation (tbSize in vmm/qemu),
	// tables of pages, and what of its files is cached on its account.
	vmmMemoryMiB = 512

	// vmmCPUs is what a machine's VMM may have of a processor beside those of its
	// guest, so that the guest has them whole. A machine with a limit gets no more
	// than that.
	vmmCPUs = 0.25
)

// jailsAhead is how many jails wait in a process that starts machine after machine.
const jailsAhead = 2

// openCells takes over the jails of this host. Without Config.Jail there are none.
func (n *Node) openCells(ctx context.Context) error {
	if n.Jail == nil {
		n.sayBounds()
		return nil
	}
	o := *n.Jail
	if o.Log == nil {
		o.Log = n.Log
	}
	block, err := cell.Open(ctx, o)
	if err != nil {
		return err
	}
	n.cells = block
	n.sayBounds()
	return nil
}

func noController(what, controller string) error {
	return dayfly.Errorf(dayfly.Unavailable, "%s: this host has no control groups with the controller %s that can be written to: leave the limit out, or see dayfly doctor", what, controller)
}

// expect has jails made for machines that are about to be launched.
func (n *Node) expect(c choice, count int) {
	d, ok := c.driver.(vmm.Programmed)
	if n.cells == nil || !ok {
		return
	}
	if p, err := d.Program(c.accel); err == nil { // else the launch says so
		n.cells.Prepare(p, count)
	}
}

// expectOne has a jail made meanwhile for the machine of a start.
func (n *Node) expectOne(c choice) {
	if n.Outlive {
		n.expect(c, jailsAhead)
		return
	}
	n.expect(c, 1)
}

// launch starts a machine in a cell of its own, which is nil where there are none.
func (n *Node) launch(ctx context.Context, d vmm.Driver, c vmm.Config) (vmm.Machine, *cell.Cell, error) {
	if n.cells == nil {
		m, err := d.Launch(ctx, c)
		return m, nil, err
	}
	in := n.cells.Cell(jail.Limits{Memory: int64(c.MemoryMiB+vmmMemoryMiB) << 20})
	c.Spawner = in
	m, err := d.Launch(ctx, c)
	if !n.Outlive { // one machine is all that such a process usually has
		n.expect(choice{d, c.Accel}, 0)
	}
	return m, in, err
}

// spawner is what an orphan is adopted by. It is nil where there are no jails.
func (n *Node) spawner() vmm.Spawner {
	if n.cells == nil {
		return nil
	}
	return n.cells.Cell(jail.Limits{})
}

// mayLimit refuses a limit that was asked for and cannot be had.
func (n *Node) mayLimit(spec dayfly.Spec) error {
	switch {
	case spec.CPULimit == 0:
		return nil
	case n.cells == nil:
		return dayfly.Errorf(dayfly.Unavailable, "cpu_limit is %g: machines live in no jail here, and so have no limits: run dayfly as root with the jail on, or leave the limit out", spec.CPULimit)
	case n.cells.Lacks("cpu"):
		return noController("cpu_limit", "cpu")
	}
	return nil
}

// limits bounds what the machine takes of its host. It comes when the machine is
// ready, as what has to be done until then is ours to do, and is not to be slow.
func (s *start) limits(ctx context.Context) error {
	n, spec := s.w.node, s.ws.Spec
	if err := n.boundDisk(ctx, s.parts.machine, n.driverOf(s.parts.made.VMM)); err != nil {
		return err
	}
	if s.parts.cell == nil {
		return context.Cause(ctx) // nobody may wait for it any more
	}
	l := jail.Limits{CPUs: float64(spec.CPUs) + vmmCPUs}
	if spec.CPULimit > 0 {
		l.CPUs = spec.CPULimit
	}
	if n.IO != (IO{}) && n.traffic() != jail.NoTraffic {
		l.IO = []jail.IO{{Path: n.Dir, ReadBytes: n.IO.Read, WriteBytes: n.IO.Write}}
	}
	if err := s.parts.cell.Limit(l); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// checkJail says whether machines live in jails, and whether they can.
func (n *Node) checkJail(ctx context.Context) dayfly.Check {
	if n.Jail == nil {
		return lacking("jails are off: a guest that breaks out of its VMM has all the rights of this process", "run dayfly as root, without --jail=off")
	}
	return jail.CheckJail(ctx, *n.Jail)
}

// checkLimits says which limits hold.
func (n *Node) checkLimits(context.Context) dayfly.Check {
	var o jail.Options
	if n.Jail != nil {
		o = *n.Jail
	}
	return jail.CheckLimits(o)
}
