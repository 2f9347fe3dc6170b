package fake

import (
	"context"
	"os"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

var _ vmm.Merger = (*machine)(nil)

// Merge lets go of the layers between the lowest and the uppermost, which holds
// all of the drive already. It takes as long as copying would.
func (m *machine) Merge(ctx context.Context, i int, speed int64) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	d, err := m.drive(i)
	if err != nil || d.ReadOnly {
		return noWritable(i)
	}
	if !m.merging.CompareAndSwap(false, true) {
		return errMerging()
	}
	defer m.merging.Store(false)
	if len(d.Below) < 2 {
		return flush(d.Path)
	}
	if err := m.copying(ctx, d.Below[:len(d.Below)-1], speed); err != nil {
		return err
	}
	if err := flush(d.Path); err != nil {
		return err
	}
	return m.change(i, vmm.Drive{Path: d.Path, Below: d.Below[len(d.Below)-1:]})
}

// flush puts what is in a layer on the medium: all of its drive.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// copying waits for as long as it takes to copy the files.
func (m *machine) copying(ctx context.Context, paths []string, speed int64) error {
	var took time.Duration
	for _, path := range paths {
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		if speed > 0 {
			took += time.Duration(float64(fi.Size()) / float64(speed) * float64(time.Second))
		}
	}
	end := time.NewTimer(took)
	defer end.Stop()
	select {
	case <-end.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-m.left:
		return m.conflict()
	case <-m.done:
		return m.conflict()
	}
}

func noWritable(i int) error {
	return dayfly.Errorf(dayfly.Invalid, "the machine has no writable drive %d", i)
}

func errMerging() error {
	return dayfly.Errorf(dayfly.Conflict, "layers of the machine's drive are being merged: try again when that has ended")
}

// unmerging refuses what needs drives that nobody but the guest writes to.
func (m *machine) unmerging(ctx context.Context) error {
	if err := m.usable(ctx); err != nil {
		return err
	}
	if m.merging.Load() {
		return errMerging()
	}
	return nil
}
