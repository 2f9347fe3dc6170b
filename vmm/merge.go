package vmm

import "context"

// Merger is a Machine that can make a drive of many layers one of two while its
// guest runs.
type Merger interface {
	// Merge copies into the uppermost layer of the writable drive i what those
	// between it and the lowest hold, and lets go of them. It writes to no other
	// layer, and copies at most speed bytes a second; 0 is no bound.
	//
	// When it has returned nil, the drive has two layers (Drive), nothing has those
	// between them open, and what they held is on the medium: they may be removed,
	// and the drive holds the same whichever of them still lie between. Of a drive
	// with fewer layers it sees to no more than that.
	//
	// On error the drive has the layers that it had, or the two. Part of what they
	// hold may be in the uppermost as well, which changes nothing, and need not be
	// copied again. Cancelling ctx ends it. When it has returned, the uppermost
	// layer has no writer but the guest.
	//
	// Meanwhile another Merge, Save, PushLayer and SetDrive are Conflict errors. One
	// whose owner died, or let go of the machine, has ended when Adopt returns.
	Merge(ctx context.Context, i int, speed int64) error
}
