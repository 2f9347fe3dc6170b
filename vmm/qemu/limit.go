package qemu

import (
	"context"
	"fmt"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// LimitDrive bounds what the guest's device may ask for, whatever nodes lie
// behind it now and later.
func (m *machine) LimitDrive(ctx context.Context, i int, l vmm.Limit) error {
	if err := l.Check(); err != nil {
		return err
	}
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) {
		return dayfly.Errorf(dayfly.Invalid, "the machine has no drive %d", i)
	}
	device, err := m.device(ctx, m.drives[i].node)
	if err != nil {
		return err
	}
	return m.ask(ctx, "block_set_io_throttle", throttle(device, l), nil)
}

// device is the path of the guest's device that has a node, by which QEMU is asked
// for it.
func (m *machine) device(ctx context.Context, node string) (string, error) {
	var devices []struct {
		Path     string `json:"qdev"`
		Inserted struct {
			Node string `json:"node-name"`
		}
	}
	if err := m.ask(ctx, "query-block", nil, &devices); err != nil {
		return "", err
	}
	for _, d := range devices {
		if d.Inserted.Node == node {
			return d.Path, nil
		}
	}
	return "", fmt.Errorf("qemu: no device has the drive %s", node)
}

// throttle is a limit as QEMU counts (docs/throttle.txt of QEMU): what comes at
// once is a tenth of a second's, or the maximum of one second.
func throttle(device string, l vmm.Limit) map[string]any {
	args := map[string]any{"id": device, "bps": 0, "iops": 0}
	for name, rate := range map[string]int64{"bps_rd": l.ReadBytes, "bps_wr": l.WriteBytes, "iops_rd": l.ReadOps, "iops_wr": l.WriteOps} {
		args[name] = rate
		if rate > 0 && l.Burst > 0 {
			args[name+"_max"] = int64(float64(rate) * l.Burst.Seconds())
		}
	}
	return args
}
