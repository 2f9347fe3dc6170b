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
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/vmm"
)

// attached is a drive as it is now, and the lock on its file. Firecracker locks
// nothing by itself. It inherits the descriptors, so that a lock lives as long
// as either of us; that of a drive that was set later lives with us alone.
//
// The lock is fcntl's on the open file (F_OFD_SETLK, as QEMU's are), and not
// flock's: with that, whoever may read a root that all machines share could shut
// the others out, and a Firecracker that was taken over is one of them.
type attached struct {
	vmm.Drive
	lock *os.File
}

// lockDrives holds every drive: a writer alone, readers together.
func lockDrives(ctx context.Context, drives []vmm.Drive) ([]attached, error) {
	var all []attached
	for _, d := range drives {
		a, err := lockDrive(ctx, d)
		if err != nil {
			freeDrives(all)
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func lockDrive(ctx context.Context, d vmm.Drive) (attached, error) {
	how := os.O_RDWR
	if d.ReadOnly {
		how = os.O_RDONLY
	}
	f, err := os.OpenFile(d.Path, how, 0)
	if err != nil {
		return attached{}, fmt.Errorf("firecracker: drive: %w", err)
	}
	a := attached{d, f}
	if err := a.hold(ctx); err != nil {
		_ = f.Close()
		return attached{}, err
	}
	return a, nil
}

// hold takes the lock, or finds that it has it.
func (a attached) hold(ctx context.Context) error {
	how := int16(unix.F_WRLCK)
	if a.ReadOnly {
		how = unix.F_RDLCK
	}
	whole := unix.Flock_t{Type: how}
	err := flock.Within(ctx, flock.Moment, func() error { return flock.TryRange(a.lock, whole) })
	if errors.Is(err, flock.ErrHeld) {
		return dayfly.Errorf(dayfly.Conflict, "a drive is in use by another machine, and one of the two writes: stop the other one first")
	}
	if err != nil {
		return fmt.Errorf("firecracker: drive: %w", err)
	}
	return nil
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
	_ = flock.TryRange(a.lock, unix.Flock_t{Type: unix.F_UNLCK}) // no error on a file that is open
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
	now, err := lockDrive(ctx, to)
	if err != nil {
		return err
	}
	name := driveName(i)
	if err := m.show(to, name); err != nil {
		now.free()
		return m.told(err)
	}
	if err := m.patchDrive(ctx, name, newName(name)); err != nil {
		now.free()
		return errors.Join(err, m.hide(name))
	}
	// It has the file: what fails from here on is only about its name.
	m.drives[i].free()
	m.drives[i] = now
	if err := m.settle(name); err != nil {
		return m.told(err)
	}
	return m.patchDrive(ctx, name, name)
}

// show puts a file where Firecracker finds it by a drive's other name.
func (m *machine) show(d vmm.Drive, name string) error {
	if err := m.home.link(d.Path, newName(name)); err != nil {
		return err
	}
	in := m.proc.inside
	if in == nil {
		return nil
	}
	place := inside(newName(name))
	err := in.Drop(place) // what a killed owner left
	if err == nil {
		err = in.Bring(vmm.Path{Name: d.Path, As: place, Write: !d.ReadOnly})
	}
	if err != nil {
		return errors.Join(err, m.home.unlink(newName(name)))
	}
	return nil
}

// hide takes back what show did.
func (m *machine) hide(name string) error {
	err := m.home.unlink(newName(name))
	if in := m.proc.inside; in != nil {
		err = errors.Join(err, in.Drop(inside(newName(name))))
	}
	return err
}

// settle puts what show has put there in the place of what was there before.
func (m *machine) settle(name string) error {
	if in := m.proc.inside; in != nil {
		if err := in.Shift(inside(newName(name)), inside(name)); err != nil {
			return err
		}
	}
	return m.home.replace(name)
}

// told is the error of a name that could not be changed: where the directory is
// let go of, the machine is ending.
func (m *machine) told(err error) error {
	if errors.Is(err, net.ErrClosed) || dayfly.KindOf(err) == dayfly.Conflict {
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
	path, err := m.behind(is, i)
	return vmm.Drive{Path: path, ReadOnly: m.drives[i].ReadOnly}, err
}

// behind is the file of a drive. A Firecracker that sees other files than we do
// has it as a mount: then it is the link to the very file that is mounted there
// that tells. It may lie about the name it has opened; the file is one of those
// that were given to it in any case.
func (m *machine) behind(is vmConfig, i int) (string, error) {
	if m.proc.inside == nil {
		return m.home.behind(is, i)
	}
	name := driveName(i)
	views := []string{name}
	for _, d := range is.Drives {
		if d.ID == name && d.Path == newName(name) {
			views = []string{newName(name), name} // unless it has been moved since
		}
	}
	if to := m.shown(views, i); to != "" {
		return to, nil
	}
	to, err := m.home.target(name)
	if err != nil {
		return "", fmt.Errorf("firecracker: drive: %w", err)
	}
	if _, err := os.Stat(to); err == nil {
		return "", dayfly.Errorf(dayfly.Unavailable, "drive %d of the machine is none that it was given", i)
	}
	return to, nil // it has no name any more, and is nothing else
}

// shown is the file of the links to a drive that Firecracker has by one of the
// names, or "".
func (m *machine) shown(views []string, i int) string {
	for _, view := range views {
		there, err := m.view(view)
		if err != nil {
			continue
		}
		for _, link := range []string{newName(driveName(i)), driveName(i)} {
			to, err := m.home.target(link)
			if err != nil {
				continue
			}
			if here, err := os.Stat(to); err == nil && os.SameFile(here, there) {
				return to
			}
		}
	}
	return ""
}

// behind is the file of a drive of a Firecracker that sees this directory. Of a SetDrive that was interrupted there may be
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
