package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// attached is a drive as it is now, and the lock on its file. Firecracker locks
// nothing by itself. It inherits the descriptors, so that a lock lives as long
// as either of us; that of a drive that was set later lives with us alone.
type attached struct {
	vmm.Drive
	lock *os.File
}

// lockDrives holds every drive: a writer alone, readers together.
func lockDrives(drives []vmm.Drive) ([]attached, error) {
	var all []attached
	for _, d := range drives {
		a, err := lockDrive(d)
		if err != nil {
			freeDrives(all)
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func lockDrive(d vmm.Drive) (attached, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return attached{}, fmt.Errorf("firecracker: drive: %w", err)
	}
	how := unix.LOCK_EX
	if d.ReadOnly {
		how = unix.LOCK_SH
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if err == nil {
		return attached{d, f}, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return attached{}, dayfly.Errorf(dayfly.Conflict, "a drive is in use by another machine, and one of the two writes: stop the other one first")
	}
	return attached{}, fmt.Errorf("firecracker: drive: %w", err)
}

// closeDrives lets go of the descriptors; a Firecracker that has them keeps the
// locks.
func closeDrives(all []attached) {
	for _, a := range all {
		_ = a.lock.Close()
	}
}

func freeDrives(all []attached) {
	for _, a := range all {
		a.free()
	}
}

// free takes the lock away wherever it is held: besides Firecracker, that may be
// a child of ours that has yet to become another program.
func (a attached) free() {
	_ = unix.Flock(int(a.lock.Fd()), unix.LOCK_UN)
	_ = a.lock.Close()
}

// PushLayer is refused: Firecracker's drives are raw files alone. Whoever wants a
// disk to stand still copies it, best by reflink, and gives the machine the copy.
func (m *machine) PushLayer(_ context.Context, i int, _ string) error { return noLayers(i) }

// SetDrive puts another file behind a drive. The name that Firecracker knows
// the drive by in the end is the one it always had, as it will be in a state;
// the way there is such that a process that is killed on it leaves the truth
// with Firecracker: see Drive.
func (m *machine) SetDrive(ctx context.Context, i int, to vmm.Drive) (err error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if m.over() {
		return m.conflict()
	}
	if i < 0 || i >= len(m.drives) || len(to.Below) > 0 {
		return dayfly.Errorf(dayfly.Invalid, "drive %d of the machine cannot be set: it has layers, or is not there", i)
	}
	to.ReadOnly = m.drives[i].ReadOnly
	if to.Path, err = filepath.Abs(to.Path); err != nil {
		return err
	}
	now, err := lockDrive(to)
	if err != nil {
		return err
	}
	name := driveName(i)
	if err := m.home.link(to.Path, newName(name)); err != nil {
		now.free()
		return m.told(err)
	}
	if err := m.patchDrive(ctx, name, newName(name)); err != nil {
		now.free()
		return errors.Join(err, m.home.unlink(newName(name)))
	}
	// It has the file: what fails from here on is only about its name.
	m.drives[i].free()
	m.drives[i] = now
	if err := m.home.replace(name); err != nil {
		return m.told(err)
	}
	return m.patchDrive(ctx, name, name)
}

// told is the error of a name that could not be changed: where the directory is
// let go of, the machine is ending.
func (m *machine) told(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return dayfly.Errorf(dayfly.Conflict, "the machine is ending")
	}
	return fmt.Errorf("firecracker: drive: %w", err)
}

func (m *machine) patchDrive(ctx context.Context, id, path string) error {
	return m.ask(ctx, request{http.MethodPatch, "/drives/" + id, driveUpdate{id, path}, false}, nil)
}

// Drive says what is behind a drive. Firecracker says by which name it has
// opened it, and the link of that name says the rest.
func (m *machine) Drive(ctx context.Context, i int) (vmm.Drive, error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) {
		return vmm.Drive{}, dayfly.Errorf(dayfly.Invalid, "the machine has no drive %d", i)
	}
	var is vmConfig
	if err := m.ask(ctx, request{http.MethodGet, "/vm/config", nil, false}, &is); err != nil {
		return vmm.Drive{}, err
	}
	path, err := m.home.behind(is, i)
	return vmm.Drive{Path: path, ReadOnly: m.drives[i].ReadOnly}, err
}

// behind is the file of a drive. Of a SetDrive that was interrupted there may be
// a link more: it counts if Firecracker has opened it, and once it has taken the
// old one's place, that counts.
func (h *home) behind(is vmConfig, i int) (string, error) {
	name := driveName(i)
	for _, d := range is.Drives {
		if d.ID == name && d.Path == newName(name) {
			if to, err := h.target(newName(name)); err == nil {
				return to, nil
			}
		}
	}
	to, err := h.target(name)
	if err != nil {
		return "", fmt.Errorf("firecracker: drive: %w", err)
	}
	return to, nil
}
