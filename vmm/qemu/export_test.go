package qemu

import (
	"context"
	"errors"

	"github.com/dayfly/dayfly/vmm"
)

// AddLayerOnly does the first half of a PushLayer.
func AddLayerOnly(ctx context.Context, vm vmm.Machine, i int, path string) error {
	m, ok := vm.(*machine)
	if !ok {
		return errors.New("not a machine of this package")
	}
	return m.addLayer(ctx, layerNode(i, len(m.drives[i].Below)+1), path)
}
