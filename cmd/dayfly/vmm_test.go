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
		{"auto", vmmFound{}, "firecracker", ""},
		{"", vmmFound{}, "firecracker", ""},
		{"auto", vmmFound{firecracker: missing}, "qemu", ""},
		{"auto", vmmFound{kvm: missing}, "qemu", ""},
		{"qemu", vmmFound{}, "qemu", ""},
		{"firecracker", vmmFound{}, "firecracker", ""},
		{"firecracker", vmmFound{firecracker: missing}, "", dayfly.Unavailable},
		{"firecracker", vmmFound{kvm: missing}, "", dayfly.Unavailable},
		{"bochs", vmmFound{}, "", dayfly.Invalid},
	} {
		name, err := chooseVMM(c.want, c.found)
		if name != c.name || err != nil && dayfly.KindOf(err) != c.kind || (err == nil) != (c.kind == "") {
			t.Errorf("%q of %+v is %q, %v; want %q, %q", c.want, c.found, name, err, c.name, c.kind)
		}
	}
}
