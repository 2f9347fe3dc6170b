package fake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/vmm"
)

// mapRAM maps a machine's memory as a VMM does.
func mapRAM(c vmm.Config) ([]byte, error) {
	fd, how := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE
	if f := c.Memory.File; f != nil {
		fd, how = int(f.Fd()), unix.MAP_PRIVATE|unix.MAP_NORESERVE
		if c.Memory.Shared {
			how = unix.MAP_SHARED
		}
	}
	b, err := unix.Mmap(fd, 0, c.MemoryMiB<<20, unix.PROT_READ|unix.PROT_WRITE, how)
	if err != nil {
		return nil, &dayfly.Error{Kind: dayfly.Unavailable, Msg: "this host has too little free memory for the machine", Err: err}
	}
	return b, nil
}

// stateMark is all that there is to save of a guest whose memory is its RAM.
const stateMark = "fake machine 1\n"

// Save returns a mark: a guest of this package has no devices.
func (m *machine) Save(ctx context.Context) ([]byte, error) {
	if err := m.unmerging(ctx); err != nil {
		return nil, err
	}
	if !m.port.paused() {
		return nil, dayfly.Errorf(dayfly.Conflict, "the machine runs: pause it first")
	}
	if m.driver.lacks.LastingChannel {
		m.port.reset()
	}
	return []byte(stateMark), nil
}

func checkState(c vmm.Config) error {
	if len(c.State) > 0 && string(c.State) != stateMark {
		return dayfly.Errorf(dayfly.Unavailable, "this VMM cannot go on from the saved state: it was saved by another version, or of another machine; start cold instead")
	}
	return nil
}

// RAM reads the guest's memory out of this process.
func (m *machine) RAM(ctx context.Context) (*vmm.RAM, error) {
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if m.config.Memory.Shared {
		return nil, dayfly.Errorf(dayfly.Invalid, "the machine's RAM is a file: read that")
	}
	addr := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.ram))))
	return vmm.ProcessRAM(os.Getpid(), addr, int64(len(m.ram)), m.config.Memory.File), nil
}

// layerMark begins a layer that vmm.CreateLayer made and no machine has used.
var layerMark = []byte("QFI\xfb")

// fill gives a new layer the content of what lies below: layers of this package
// hold all of their drive.
func fill(d vmm.Drive) error {
	if head, err := headOf(d.Path); err != nil || len(d.Below) == 0 || !bytes.Equal(head, layerMark) {
		return err
	}
	from, head := d.Below, layerMark
	for bytes.Equal(head, layerMark) { // its content was lost, or never written
		if len(from) == 0 {
			return errors.New("fake: no layer has the drive's content")
		}
		var err error
		if head, err = headOf(from[0]); err != nil {
			return err
		}
		d.Below, from = from, from[1:]
	}
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	below, err := os.Open(d.Below[0])
	if err != nil {
		return err
	}
	defer below.Close()
	// The mark goes last, so that one who dies here leaves a layer to be filled.
	n := int64(len(head))
	rest, err := io.Copy(io.NewOffsetWriter(f, n), io.NewSectionReader(below, n, math.MaxInt64-n))
	if err != nil {
		return err
	}
	if err := f.Truncate(n + rest); err != nil {
		return err
	}
	_, err = f.WriteAt(head, 0)
	return err
}

// headOf is as much of a file as layerMark has.
func headOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, len(layerMark))
	_, err = f.ReadAt(head, 0)
	return head, err
}

// drive returns drive i as it is now.
func (v *vm) drive(i int) (vmm.Drive, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i < 0 || i >= len(v.drives) {
		return vmm.Drive{}, dayfly.Errorf(dayfly.Invalid, "the machine has no drive %d", i)
	}
	d := v.drives[i].Drive
	d.Below = slices.Clone(d.Below)
	return d, nil
}

// Drive says what is behind drive i.
func (m *machine) Drive(ctx context.Context, i int) (vmm.Drive, error) {
	if err := m.usable(ctx); err != nil {
		return vmm.Drive{}, err
	}
	d, err := m.drive(i)
	d.Limit = vmm.Limit{} // which is not asked for
	return d, err
}

// LimitDrive says what the guest, which reads and writes by itself, has to keep to.
func (m *machine) LimitDrive(ctx context.Context, i int, l vmm.Limit) error {
	if err := errors.Join(m.usable(ctx), l.Check()); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i < 0 || i >= len(m.drives) {
		return dayfly.Errorf(dayfly.Invalid, "the machine has no drive %d", i)
	}
	m.drives[i].Limit = l
	m.wake()
	return nil
}

// wake lets whoever keeps to a limit look at it again. The caller holds mu.
func (v *vm) wake() {
	close(v.limited)
	v.limited = make(chan struct{})
}

// lift has a guest that is to end wait for nothing.
func (v *vm) lift() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lifted = true
	v.wake()
}

// limit is that of drive i now, and a channel that is closed when one changes.
func (v *vm) limit(i int) (vmm.Limit, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lifted {
		return vmm.Limit{}, v.limited
	}
	return v.drives[i].Limit, v.limited
}

// PushLayer makes a new layer the uppermost of a drive.
func (m *machine) PushLayer(ctx context.Context, i int, path string) (err error) {
	if err := m.unmerging(ctx); err != nil {
		return err
	}
	if m.driver.lacks.Layers {
		return noLayers()
	}
	d, err := m.drive(i)
	if err != nil || d.ReadOnly {
		return noWritable(i)
	}
	fi, err := os.Stat(d.Path)
	if err != nil {
		return err
	}
	if err := vmm.CreateLayer(path, fi.Size()); err != nil {
		return err
	}
	pushed := vmm.Drive{Path: path, Below: append([]string{d.Path}, d.Below...)}
	if err = fill(pushed); err == nil {
		err = m.change(i, pushed)
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func noLayers() error {
	return dayfly.Errorf(dayfly.Unavailable, "drives of this driver are raw files alone")
}

// SetDrive puts another file behind a drive of one layer.
func (m *machine) SetDrive(ctx context.Context, i int, d vmm.Drive) error {
	if err := m.unmerging(ctx); err != nil {
		return err
	}
	old, err := m.drive(i)
	if err != nil || len(old.Below)+len(d.Below) > 0 {
		return dayfly.Errorf(dayfly.Invalid, "drive %d of the machine cannot be set: it has layers, or is not there", i)
	}
	return m.change(i, vmm.Drive{Path: d.Path, ReadOnly: old.ReadOnly})
}

// change replaces a drive, with the locks on its files.
func (v *vm) change(i int, d vmm.Drive) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.drives[i]
	old.unlock() // flock knows no lowering of a lock held by another descriptor
	d.Limit = old.Limit
	now, err := lockDrive(d)
	if err != nil {
		again, _ := lockDrive(old.Drive)
		v.drives[i] = again
		return err
	}
	v.drives[i] = now
	return nil
}

// attached is a drive and the locks on its files.
type attached struct {
	vmm.Drive
	locks []*os.File
}

func (a *attached) unlock() {
	for _, f := range a.locks {
		_ = f.Close()
	}
	a.locks = nil
}

// lockDrives holds every drive as a VMM would: a writer alone, readers together.
func lockDrives(drives []vmm.Drive) ([]attached, error) {
	var all []attached
	for _, d := range drives {
		a, err := lockDrive(d)
		if err == nil {
			err = fill(d)
		}
		all = append(all, a)
		if err != nil {
			unlockDrives(all)
			return nil, err
		}
	}
	return all, nil
}

func unlockDrives(all []attached) {
	for i := range all {
		all[i].unlock()
	}
}

func lockDrive(d vmm.Drive) (attached, error) {
	a := attached{Drive: d}
	a.Below = slices.Clone(d.Below)
	for i, path := range append([]string{d.Path}, d.Below...) {
		f, err := os.Open(path)
		if err != nil {
			a.unlock()
			return a, err
		}
		a.locks = append(a.locks, f)
		how := unix.LOCK_SH
		if i == 0 && !d.ReadOnly {
			how = unix.LOCK_EX
		}
		if err := flock.Try(f, how); err != nil {
			a.unlock()
			return a, dayfly.Errorf(dayfly.Conflict, "a drive is in use by another machine, and one of the two writes: stop the other one first")
		}
	}
	return a, nil
}

// reopen gives a machine a descriptor of its own of what its RAM begins as, as
// a VMM has one. It is closed with the last use.
func reopen(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // RAM that begins as zeros has no file
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
