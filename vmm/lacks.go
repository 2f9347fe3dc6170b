package vmm

// Lacks are what the machines of a driver do without, beside what this package
// promises of all. The zero value: nothing.
type Lacks struct {
	// Layers: a drive is one raw file, and stays that. Drives with layers are
	// refused as Unavailable, and so is PushLayer. Who wants a drive's content to
	// stand still copies the file while the machine does.
	Layers bool

	// LastingChannel: Save ends the machine's channel: what was sent in it may
	// be lost, and it is to be closed and opened again once the machine goes on.
	LastingChannel bool

	// Emulation: machines run on KVM alone.
	Emulation bool

	// LimitsByDirection: what a drive reads and writes counts together, against the
	// lower of both bounds: it is never faster than its Limit says, but slower where
	// the two differ, or where both are used at once.
	LimitsByDirection bool

	// NICLimits: the traffic of NICs cannot be bounded, and NICs with a Limit are
	// refused as Unavailable. Whoever wants that bounds it behind the TAP.
	NICLimits bool
}

// Lacking is a driver that says what its machines do without.
type Lacking interface{ Lacks() Lacks }

// LacksOf says what the machines of a driver do without.
func LacksOf(d Driver) Lacks {
	if l, ok := d.(Lacking); ok {
		return l.Lacks()
	}
	return Lacks{}
}
