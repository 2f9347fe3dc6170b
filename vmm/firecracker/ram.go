package firecracker

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// lowMemory is how much of a guest's RAM lies below its devices; what there is
// beyond is a region of its own, at 4 GiB (src/vmm/src/arch/x86_64 of
// Firecracker).
const lowMemory = 3 << 30

// maxMaps bounds what is read of a process's memory map, in bytes.
const maxMaps = 4 << 20

// RAM reads the guest's memory out of Firecracker's. Where that has it, its own
// memory map says: a restored machine's is a private mapping of the file that it
// began as, that of one that booted is as large as its RAM.
func (m *machine) RAM(ctx context.Context) (*vmm.RAM, error) {
	if m.shared {
		return nil, dayfly.Errorf(dayfly.Invalid, "the machine's RAM is a file: read that")
	}
	if m.over() {
		return nil, m.conflict()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	parts, err := m.mappings()
	if err != nil {
		return nil, fmt.Errorf("firecracker: ram: %w", err)
	}
	return vmm.MappedRAM(m.proc.pid, parts, m.base), nil
}

func (m *machine) mappings() ([]vmm.Mapping, error) {
	areas, err := readMaps(m.proc.pid)
	if err != nil {
		return nil, err
	}
	sizes := regions(int64(m.config.MemoryMiB) << 20)
	if m.base != nil {
		inode, err := inodeOf(m.base)
		if err != nil {
			return nil, err
		}
		return ofFile(areas, inode, sizes)
	}
	return anonymous(areas, sizes, func(addr uint64) bool { return holdsKernel(m.proc.pid, addr, m.config.Kernel) })
}

// regions is how a RAM is divided.
func regions(size int64) []int64 {
	if size <= lowMemory {
		return []int64{size}
	}
	return []int64{lowMemory, size - lowMemory}
}

// area is one line of /proc/PID/maps that may hold RAM.
type area struct {
	start, end uint64
	offset     uint64 // in the file
	inode      uint64 // 0: no file
}

func (a area) size() int64 { return int64(a.end - a.start) }

func readMaps(pid int) ([]area, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMaps))
	return parseMaps(string(text)), err
}

// parseMaps keeps the private, writable areas without a name, or with that of a
// file. The device is not looked at: on some file systems stat says another.
func parseMaps(text string) []area {
	const private = "rw-p"
	var all []area
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 || f[1] != private {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a := area{}
		var errs [4]error
		a.start, errs[0] = strconv.ParseUint(from, 16, 64)
		a.end, errs[1] = strconv.ParseUint(to, 16, 64)
		a.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
		a.inode, errs[3] = strconv.ParseUint(f[4], 10, 64)
		named := len(f) > 5 && a.inode == 0 // [heap] and the like
		if errors.Join(errs[:]...) == nil && a.end > a.start && !named {
			all = append(all, a)
		}
	}
	return all
}

func inodeOf(f *os.File) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Ino, err
}

var errNotFound = errors.New("no mapping of the VMM's is the machine's RAM")

// ofFile finds where each region of a file is mapped. A balloon may have put
// other pages over some of it, so any remainder counts.
func ofFile(areas []area, inode uint64, sizes []int64) (parts []vmm.Mapping, err error) {
	var begin uint64
	for _, size := range sizes {
		found := false
		for _, a := range areas {
			first := max(a.offset, begin)
			if a.inode != inode || first >= a.offset+uint64(a.size()) || first >= begin+uint64(size) {
				continue
			}
			parts = append(parts, vmm.Mapping{Addr: a.start + (first - a.offset) - (first - begin), Len: size})
			found = true
			break
		}
		if !found {
			return nil, errNotFound
		}
		begin += uint64(size)
	}
	return parts, nil
}

// anonymous finds regions that are mappings without a file, by their size. The
// kernel may have made one area of two that lie side by side. What is then
// undecided, isLow decides: whether the guest's kernel is where it would be.
func anonymous(areas []area, sizes []int64, isLow func(addr uint64) bool) ([]vmm.Mapping, error) {
	low, whole := sizes[0], int64(0)
	for _, s := range sizes {
		whole += s
	}
	candidates := map[uint64]area{}
	for _, want := range []int64{low, whole} {
		for _, a := range areas {
			if a.inode == 0 && a.size() == want {
				candidates[a.start], candidates[a.end-uint64(low)] = a, a
			}
		}
	}
	if len(candidates) == 0 { // beside something else
		for _, a := range areas {
			if a.inode == 0 && a.size() > low {
				candidates[a.start], candidates[a.end-uint64(low)] = a, a
			}
		}
	}
	addr, in, err := choose(candidates, isLow)
	if err != nil {
		return nil, err
	}
	parts := []vmm.Mapping{{Addr: addr, Len: low}}
	if len(sizes) == 1 {
		return parts, nil
	}
	high, err := findHigh(areas, in, addr, sizes)
	return append(parts, high), err
}

func choose(candidates map[uint64]area, isLow func(uint64) bool) (addr uint64, in area, err error) {
	found := 0
	for at, a := range candidates {
		if len(candidates) == 1 || isLow(at) {
			addr, in = at, a
			found++
		}
	}
	if found != 1 {
		return 0, area{}, errNotFound
	}
	return addr, in, nil
}

// findHigh finds the region above the devices, once the one below is known.
func findHigh(areas []area, in area, low uint64, sizes []int64) (vmm.Mapping, error) {
	size := sizes[1]
	if in.size() == sizes[0]+size { // side by side
		if low == in.start {
			return vmm.Mapping{Addr: low + uint64(sizes[0]), Len: size}, nil
		}
		return vmm.Mapping{Addr: in.start, Len: size}, nil
	}
	var found []area
	for _, a := range areas {
		if a.inode == 0 && a.size() == size && a.start != low {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		return vmm.Mapping{}, errNotFound
	}
	return vmm.Mapping{Addr: found[0].start, Len: size}, nil
}

// holdsKernel reports whether a process has at addr the RAM of a guest that
// booted a kernel: at the place its file says it has its banner.
func holdsKernel(pid int, addr uint64, kernel string) bool {
	at, banner, err := kernelBanner(kernel)
	if err != nil {
		return false
	}
	got := make([]byte, len(banner))
	ram := vmm.ProcessRAM(pid, addr+at, int64(len(banner)), nil)
	n, err := ram.ReadAt(got, 0)
	return err == nil && n == len(got) && bytes.Equal(got, banner)
}

// kernelBanner returns the beginning of a kernel's version and its address in
// the guest's memory.
func kernelBanner(path string) (at uint64, banner []byte, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	const mark, length = "Linux version ", 64
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(p.Open(), dayfly.MaxMemoryMiB<<20))
		if err != nil {
			return 0, nil, err
		}
		if i := bytes.Index(text, []byte(mark)); i >= 0 {
			return p.Paddr + uint64(i), bytes.Clone(text[i:min(i+length, len(text))]), nil
		}
	}
	return 0, nil, errors.New("the kernel has no banner")
}
