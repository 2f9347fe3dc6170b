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
	"sync"

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
	return anonymous(areas, sizes, kernelIn(m.proc.pid, m.config.Kernel))
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
// kernel makes one area of mappings that lie side by side, be they the other
// region or no RAM at all, so a larger area may hold one at either end, or
// beside the other one. What is then undecided, isLow decides: whether the
// guest's kernel is where it would be.
func anonymous(areas []area, sizes []int64, isLow func(addr uint64) bool) ([]vmm.Mapping, error) {
	low, high := sizes[0], int64(0)
	if len(sizes) > 1 {
		high = sizes[1]
	}
	candidates := map[uint64]area{}
	for _, a := range areas {
		for _, at := range []uint64{a.start, a.start + uint64(high), a.end - uint64(low), a.end - uint64(low+high)} {
			if a.inode == 0 && a.holds(at, low) {
				candidates[at] = a
			}
		}
	}
	addr, in, err := choose(candidates, low, isLow)
	if err != nil {
		return nil, err
	}
	parts := []vmm.Mapping{{Addr: addr, Len: low}}
	if high == 0 {
		return parts, nil
	}
	above, err := findHigh(areas, in, addr, sizes)
	return append(parts, above), err
}

// holds reports whether size bytes from at on are in the area.
func (a area) holds(at uint64, size int64) bool {
	return at >= a.start && at < a.end && int64(a.end-at) >= size
}

// choose takes the one candidate of which it is certain: there is no other, or
// the kernel is there, or else it alone is an area of the very size.
func choose(candidates map[uint64]area, low int64, isLow func(uint64) bool) (addr uint64, in area, err error) {
	for _, certain := range []func(uint64, area) bool{
		func(uint64, area) bool { return len(candidates) == 1 },
		func(at uint64, _ area) bool { return isLow(at) },
		func(_ uint64, a area) bool { return a.size() == low },
	} {
		found := 0
		for at, a := range candidates {
			if certain(at, a) {
				addr, in = at, a
				found++
			}
		}
		if found == 1 {
			return addr, in, nil
		}
	}
	return 0, area{}, errNotFound
}

// findHigh finds the region above the devices, once the one below is known:
// beside that, or as an area of its own.
func findHigh(areas []area, in area, low uint64, sizes []int64) (vmm.Mapping, error) {
	size := sizes[1]
	var found []uint64
	for _, at := range []uint64{low - uint64(size), low + uint64(sizes[0])} {
		if in.holds(at, size) {
			found = append(found, at)
		}
	}
	if len(found) == 0 {
		for _, a := range areas {
			if a.inode == 0 && a.size() == size && a != in {
				found = append(found, a.start)
			}
		}
	}
	if len(found) != 1 {
		return vmm.Mapping{}, errNotFound
	}
	return vmm.Mapping{Addr: found[0], Len: size}, nil
}

// kernelIn returns what tells whether a process has the RAM of a guest that
// booted a kernel at an address: at the place its file says it has its banner.
func kernelIn(pid int, kernel string) func(addr uint64) bool {
	var at uint64
	var banner []byte
	load := sync.OnceValue(func() (err error) { at, banner, err = kernelBanner(kernel); return err })
	return func(addr uint64) bool {
		if load() != nil {
			return false
		}
		got := make([]byte, len(banner))
		n, err := vmm.ProcessRAM(pid, addr+at, int64(len(banner)), nil).ReadAt(got, 0)
		return err == nil && n == len(got) && bytes.Equal(got, banner)
	}
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
