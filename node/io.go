package node

import (
	"context"

	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/vmm"
)

// IO bounds the traffic of each machine with the disk that has the state
// directory, in bytes a second. Zero is no bound.
//
// There are two who can keep it. A VMM bounds what its guest asks of the
// workspace's disk, on any host, whether the host has it in memory or not. The
// jail's control group bounds all that the VMM's process moves, the root's reads
// among it, and also a VMM that was taken over; but only where the host has one,
// and writes only where the file system says whose they are.
type IO struct{ Read, Write int64 }

// traffic is what of that the jails of this host bound.
func (n *Node) traffic() jail.Traffic {
	if n.cells == nil {
		return jail.NoTraffic
	}
	return n.cells.Traffic(n.Dir)
}

// sayBounds logs once what bounds there will not be.
func (n *Node) sayBounds() {
	if n.IO == (IO{}) {
		return
	}
	switch n.traffic() {
	case jail.NoTraffic:
		n.Log.Warn("io is bounded by VMMs alone: reads of roots are not, nor is a VMM that was taken over")
	case jail.DirectTraffic:
		n.Log.Warn("io of a VMM that was taken over is bounded in part: this host does not tell whose the writes of its page cache are")
	}
}

// boundDisk has the VMM bound the traffic with the workspace's disk. One that can
// only bound reads and writes together does so where nothing else would: it would
// keep to the lower of two bounds.
func (n *Node) boundDisk(ctx context.Context, m vmm.Machine, d vmm.Driver) error {
	if n.IO == (IO{}) || vmm.LacksOf(d).LimitsByDirection && n.traffic() == jail.AllTraffic {
		return nil
	}
	return m.LimitDrive(ctx, writable, vmm.Limit{ReadBytes: n.IO.Read, WriteBytes: n.IO.Write})
}
