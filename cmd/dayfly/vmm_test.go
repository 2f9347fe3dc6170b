package main

import (
	"errors"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestVMMIsChosenByWhatIsProved(t *testing.T) {
	t.Parallel()
	missing := errors.New("not here")
	for _, c := range []struct {
		want  string
		found vmmFound
		name  string
		kind  dayfly.Kind
	}{
		{"auto", vmmFound{rawDisks: true}, "firecracker", ""},
		{"", vmmFound{rawDisks: true}, "firecracker", ""},
		{"auto", vmmFound{}, "qemu", ""}, // a node that needs layers gets a VMM that has them
		{"auto", vmmFound{firecracker: missing, rawDisks: true}, "qemu", ""},
		{"auto", vmmFound{kvm: missing, rawDisks: true}, "qemu", ""},
		{"qemu", vmmFound{rawDisks: true}, "qemu", ""},
		{"firecracker", vmmFound{}, "firecracker", ""},
		{"firecracker", vmmFound{firecracker: missing}, "", dayfly.Unavailable},
		{"firecracker", vmmFound{kvm: missing}, "", dayfly.Unavailable},
		{"bochs", vmmFound{rawDisks: true}, "", dayfly.Invalid},
	} {
		name, err := chooseVMM(c.want, c.found)
		if name != c.name || err != nil && dayfly.KindOf(err) != c.kind || (err == nil) != (c.kind == "") {
			t.Errorf("%q of %+v is %q, %v; want %q, %q", c.want, c.found, name, err, c.name, c.kind)
		}
	}
}
