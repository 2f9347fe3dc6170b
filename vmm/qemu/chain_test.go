package qemu

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/dayfly/dayfly/vmm"
)

// history is what becomes of a drive: layers are pushed onto it, and merged.
type history struct {
	launched int      // layers above the lowest, to begin with
	deeds    []string // "push", "merge"
	left     string   // what its last owner was in the middle of
}

// TestDriveIsKnownAgainByItsNodes goes through histories, keeps beside QEMU's
// nodes what the drive consists of, and compares.
func TestDriveIsKnownAgainByItsNodes(t *testing.T) {
	t.Parallel()
	for _, launched := range []int{0, 1, 2, 5} {
		for deeds := range 1 << 5 {
			for _, left := range []string{"", "push", "merge"} {
				h := history{launched: launched, left: left}
				for i := range 5 {
					h.deeds = append(h.deeds, map[bool]string{true: "push", false: "merge"}[deeds&(1<<i) != 0])
				}
				t.Run(fmt.Sprintf("%d/%s/%s", launched, strings.Join(h.deeds, ","), left), h.check)
			}
		}
	}
}

func (h history) check(t *testing.T) {
	drive := vmm.Drive{Path: "/w/0"}
	for i := range h.launched {
		drive = vmm.Drive{Path: fmt.Sprintf("/w/%d", i+1), Below: append([]string{drive.Path}, drive.Below...)}
	}
	want := attach(1, drive)
	files := map[string]string{"drive1": drive.Path, "drive0": "/root"}
	if h.launched > 0 {
		files["drive1-0"] = "/w/0"
	}
	push := func() string {
		name, path := layerNode(1, want.serial+1), fmt.Sprintf("/w/pushed%d", want.serial+1)
		files[name], files[fileNode(name)] = "json:", path
		return path
	}
	for _, deed := range h.deeds {
		switch {
		case deed == "push":
			path := push()
			if want.node != want.base {
				want.owned = append([]string{want.node}, want.owned...)
			}
			want.serial++
			want.node = layerNode(1, want.serial)
			want.Drive = vmm.Drive{Path: path, Below: append([]string{want.Path}, want.Below...)}
		case len(want.Below) > 1:
			for _, name := range want.owned {
				delete(files, name)
			}
			want.owned, want.Below = nil, want.Below[len(want.Below)-1:]
		}
	}
	switch {
	case h.left == "push":
		push()
		want.serial++
		want.stale = []string{layerNode(1, want.serial)}
	case h.left == "merge" && len(want.Below) > 1:
		want.stale, want.owned = want.owned, nil
		want.Below = want.Below[len(want.Below)-1:]
	}
	got, err := assemble(1, drive, map[string]int{"drive0": 0, want.node: len(want.Below)}, files)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*attached{&got, &want} {
		a.owned, a.stale, a.Below = append([]string{}, a.owned...), append([]string{}, a.stale...), append([]string{}, a.Below...)
	}
	if got.serial > want.serial { // a name that is free again does no harm
		t.Errorf("serial is %d, want %d", got.serial, want.serial)
	}
	got.serial = want.serial
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it is %+v, want %+v", got, want)
	}
}

// FuzzAssemble: whatever a VMM says of a drive, what comes out has files, and a
// node that was among those it named.
func FuzzAssemble(f *testing.F) {
	f.Add(2, "drive1-3", 3, "drive1 drive1-0 drive1-3 drive1-3-file")
	f.Add(0, "drive1-2", 1, "drive1 drive1-1 drive1-2")
	f.Add(0, "drive1", 0, "drive1")
	f.Fuzz(func(t *testing.T, launched int, root string, depth int, names string) {
		d := vmm.Drive{Path: "/top"}
		for range min(max(launched, 0), 70) {
			d.Below = append(d.Below, "/below")
		}
		files := map[string]string{}
		for _, name := range strings.Fields(names) {
			files[name] = "/" + name
		}
		a, err := assemble(1, d, map[string]int{root: depth}, files)
		if err != nil {
			return
		}
		if len(a.Below) != depth || a.node != root {
			t.Errorf("%q over %d layers is %+v", root, depth, a)
		}
	})
}
