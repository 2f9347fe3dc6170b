package host

import (
	"fmt"

	"github.com/dayfly/dayfly"
)

// entropy asks for a random number generator that is ready: keys are made from
// it, and reading it waits until it is. Since Linux 5.18 the kernel says 256
// bits once it is ready, for ever; before, the figure rises and falls, and is
// low only after boot.
func (h Host) entropy() dayfly.Check {
	const enough = 128 // bits: what older kernels wait for
	have, ok := h.number("proc/sys/kernel/random/entropy_avail")
	want := int64(enough)
	if pool, found := h.number("proc/sys/kernel/random/poolsize"); found && pool == 256 {
		want = pool
	}
	switch {
	case !ok:
		return lacking(finding{detail: "the kernel does not say how much it has", remedy: "mount -t proc proc /proc"})
	case have < want:
		return lacking(finding{
			detail: fmt.Sprintf("%d of %d bits: the generator is not ready", have, want),
			cost:   "whatever makes a key waits, for seconds to minutes after the host's boot",
			remedy: "a virtio-rng device if this is a virtual machine; random.trust_cpu=1 on the kernel's command line; else apt-get install rng-tools5",
		})
	}
	return good("ready")
}
