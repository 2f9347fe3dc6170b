package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// Save returns the state of the machine but for its RAM. QEMU's own way to save
// a machine would write the RAM out with it, and that of a private mapping
// cannot be left out; this command, made for another hypervisor that keeps RAM
// elsewhere, leaves it out always. It takes less than a millisecond.
func (m *machine) Save(ctx context.Context) ([]byte, error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if err := errors.Join(m.unmerging(), m.mustBePaused(ctx)); err != nil {
		return nil, err
	}
	f, err := memoryFile("state")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := m.saveTo(ctx, f); err != nil {
		return nil, err
	}
	state, err := io.ReadAll(io.LimitReader(io.NewSectionReader(f, 0, vmm.MaxState+1), vmm.MaxState+1))
	if err == nil && (len(state) == 0 || len(state) > vmm.MaxState) {
		err = fmt.Errorf("it has %d bytes", len(state))
	}
	if err != nil {
		return nil, fmt.Errorf("qemu: saved state: %w", err)
	}
	return state, nil
}

// saveTo has the state written to a file, which QEMU is handed and lets go of
// again: nothing of it gets to a disk, or stays with QEMU.
func (m *machine) saveTo(ctx context.Context, f *os.File) (err error) {
	// QEMU takes of a set what it would open itself: one that is for writing only.
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("qemu: state: %w", err)
	}
	defer w.Close()
	set, err := m.hand(ctx, "", w)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.takeBack(ctx, set)) }()
	// live: the drives stay with this machine.
	return m.ask(ctx, "xen-save-devices-state", map[string]any{"filename": setName(set), "live": true}, nil)
}

func (m *machine) mustBePaused(ctx context.Context) error {
	var status struct{ Running bool }
	if err := m.ask(ctx, "query-status", nil, &status); err != nil {
		return err
	}
	if status.Running {
		return dayfly.Errorf(dayfly.Conflict, "the machine runs: pause it first")
	}
	return nil
}

// memoryFile makes an empty file that has no name and is never on a disk.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("qemu: %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// RAM reads the guest's memory out of QEMU's.
func (m *machine) RAM(ctx context.Context) (*vmm.RAM, error) {
	if m.sealed {
		return nil, dayfly.Errorf(dayfly.Unavailable, "the machine's memory cannot be read, as another process launched it: on this host only root may do that (kernel.yama.ptrace_scope)")
	}
	if m.config.Memory.Shared {
		return nil, dayfly.Errorf(dayfly.Invalid, "the machine's RAM is a file: read that")
	}
	var table struct {
		Text string `json:"human-readable-text"`
	}
	if err := m.ask(ctx, "x-query-ramblock", nil, &table); err != nil {
		return nil, err
	}
	size := int64(m.config.MemoryMiB) << 20
	addr, err := ramAddress(table.Text, size)
	if err != nil {
		return nil, err
	}
	return vmm.ProcessRAM(m.PID(), addr, size, m.config.Memory.File), nil
}

// ramAddress finds in QEMU's table of memory blocks where the one with the size
// of the RAM is mapped:
//
//	Block Name    PSize              Offset               Used              Total                HVA  RO
//	       ram    4 KiB  0x0000000000000000 0x0000000020000000 0x0000000020000000 0x00007fc2cffff000  rw
func ramAddress(table string, size int64) (uint64, error) {
	const columns, used, address = 8, 4, 6
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != columns || f[0] != ramBlock && !strings.HasSuffix(f[0], ".ram") {
			continue
		}
		if n, err := strconv.ParseInt(f[used], 0, 64); err != nil || n != size {
			continue
		}
		if addr, err := strconv.ParseUint(f[address], 0, 64); err == nil && addr%vmm.PageSize == 0 {
			return addr, nil
		}
	}
	return 0, errors.New("qemu: no block of memory is the machine's RAM")
}

// PushLayer makes a new layer the uppermost of a drive.
func (m *machine) PushLayer(ctx context.Context, i int, path string) (err error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) || m.drives[i].ReadOnly {
		return noWritable(i)
	}
	if err := errors.Join(m.unmerging(), m.dropStale(ctx, i)); err != nil {
		return err
	}
	d := &m.drives[i]
	bottom, err := os.Stat(append([]string{d.Path}, d.Below...)[len(d.Below)])
	if err != nil {
		return fmt.Errorf("qemu: layer: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err := vmm.CreateLayer(path, bottom.Size()); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	name := layerNode(i, d.serial+1)
	if err := m.addLayer(ctx, name, path); err != nil {
		return err
	}
	if err := m.ask(ctx, "blockdev-snapshot", map[string]string{"node": d.node, "overlay": name}, nil); err != nil {
		return errors.Join(err, m.dropNode(ctx, name))
	}
	if d.node != d.base {
		d.owned = append([]string{d.node}, d.owned...)
	}
	d.serial++
	d.node, d.Drive = name, vmm.Drive{Path: path, Below: append([]string{d.Path}, d.Below...)}
	return nil
}

// addLayer lets QEMU open a new layer that lies over nothing yet.
func (m *machine) addLayer(ctx context.Context, name, path string) error {
	set, err := m.handPath(ctx, path, false)
	if err != nil {
		return err
	}
	f, top := file(setName(set), false), layer(setName(set), false, true)
	f["node-name"] = fileNode(name)
	top["node-name"], top["file"], top["backing"] = name, f, nil
	if err := m.ask(ctx, "blockdev-add", top, nil); err != nil {
		return errors.Join(err, m.takeBack(ctx, set))
	}
	return nil
}

// Nodes have names by which they are known again: that of a layer, which are
// counted from the lowest, those that were merged as well, and those of files.
// Of the layers that a machine is launched with, the uppermost is the driveNode.
func layerNode(i, serial int) string { return fmt.Sprintf("%s-%d", driveNode(i), serial) }
func fileNode(layer string) string   { return layer + "-file" }
func (m *machine) setNode(i int) string {
	m.sets++
	return fmt.Sprintf("%s-set%d", driveNode(i), m.sets)
}

// SetDrive puts another file behind a drive of one layer.
func (m *machine) SetDrive(ctx context.Context, i int, to vmm.Drive) error {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) || len(to.Below)+len(m.drives[i].Below) > 0 {
		return dayfly.Errorf(dayfly.Invalid, "drive %d of the machine cannot be set: it has layers, or is not there", i)
	}
	if err := m.unmerging(); err != nil {
		return err
	}
	d := &m.drives[i]
	path, err := filepath.Abs(to.Path)
	if err != nil {
		return err
	}
	set, err := m.handPath(ctx, path, d.ReadOnly)
	if err != nil {
		return err
	}
	f, name := file(setName(set), d.ReadOnly), m.setNode(i)
	f["node-name"] = name
	if err := m.ask(ctx, "blockdev-add", f, nil); err != nil {
		return errors.Join(err, m.takeBack(ctx, set))
	}
	node := layer(setName(set), d.ReadOnly, false)
	node["node-name"], node["file"] = d.node, name
	if err := m.ask(ctx, "blockdev-reopen", map[string]any{"options": []any{node}}, nil); err != nil {
		return errors.Join(err, m.dropNode(ctx, name))
	}
	d.Path = path
	return nil
}

// Drive says what is behind drive i.
func (m *machine) Drive(_ context.Context, i int) (vmm.Drive, error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) {
		return vmm.Drive{}, dayfly.Errorf(dayfly.Invalid, "the machine has no drive %d", i)
	}
	d := m.drives[i].Drive
	d.Below = slices.Clone(d.Below)
	return d, nil
}

func (m *machine) dropNode(ctx context.Context, name string) error {
	return m.ask(context.WithoutCancel(ctx), "blockdev-del", map[string]string{"node-name": name}, nil)
}
