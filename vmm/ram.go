package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize is that of an x86-64 host and guest.
const PageSize = 4096

// Extent is a run of whole pages of RAM, in bytes from its beginning.
type Extent struct{ Off, Len int64 }

// RAM reads the memory of a guest from the VMM process that has it mapped, in
// private mappings. What it costs goes by what the guest has touched, not by
// the size. The machine must be paused, or what is read is of many instants.
// Its methods may be called at the same time.
type RAM struct {
	pid   int
	parts []Mapping
	size  int64
	base  *os.File
}

// Mapping is where a process has a part of a guest's RAM, of whole pages.
type Mapping struct {
	Addr uint64
	Len  int64
}

// ProcessRAM describes the RAM of size bytes that process pid has mapped at
// addr; base is the file it began as, or nil. The caller keeps base open.
func ProcessRAM(pid int, addr uint64, size int64, base *os.File) *RAM {
	return MappedRAM(pid, []Mapping{{addr, size}}, base)
}

// MappedRAM is ProcessRAM where the RAM lies in several mappings: one after the
// other they are what base holds.
func MappedRAM(pid int, parts []Mapping, base *os.File) *RAM {
	r := &RAM{pid: pid, parts: parts, base: base}
	for _, p := range parts {
		r.size += p.Len
	}
	return r
}

// at finds where off is mapped, and how many bytes from there on are.
func (r *RAM) at(off int64) (addr uint64, n int64) {
	for _, p := range r.parts {
		if off < p.Len {
			return p.Addr + uint64(off), p.Len - off
		}
		off -= p.Len
	}
	return 0, 0
}

// Size is that of the whole RAM in bytes.
func (r *RAM) Size() int64 { return r.size }

// ReadAt reads from off.
func (r *RAM) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > r.size {
		return 0, fmt.Errorf("ram: read at %d of %d", off, r.size)
	}
	short := int64(len(p)) > r.size-off
	if short {
		p = p[:r.size-off]
	}
	done := 0
	for done < len(p) {
		addr, there := r.at(off + int64(done))
		want := int(min(int64(len(p)-done), there))
		local := []unix.Iovec{{Base: &p[done]}}
		local[0].SetLen(want)
		remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: want}}
		n, err := unix.ProcessVMReadv(r.pid, local, remote, 0)
		if err != nil {
			return done, fmt.Errorf("ram: read at %d: %w", off+int64(done), err)
		}
		if n == 0 {
			return done, io.ErrUnexpectedEOF
		}
		done += n
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// Touched lists, in ascending order, all that may be other than zero: the pages
// the guest has written, and those of the file its RAM began as.
func (r *RAM) Touched(ctx context.Context) ([]Extent, error) {
	written, err := r.written(ctx)
	if err != nil || r.base == nil {
		return written, err
	}
	kept, err := DataExtents(r.base, r.size)
	if err != nil {
		return nil, err
	}
	return union(written, kept), nil
}

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61 // or shared: not the process's own
)

// written lists the pages that are the process's own.
func (r *RAM) written(ctx context.Context) ([]Extent, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(r.pid) + "/pagemap")
	if err != nil {
		return nil, fmt.Errorf("ram: %w", err)
	}
	defer f.Close()
	const entry, many = 8, 1 << 16
	buf := make([]byte, entry*many)
	var list extents
	for page := int64(0); page < r.size/PageSize; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		addr, there := r.at(page * PageSize)
		n := min(many, there/PageSize)
		if _, err := f.ReadAt(buf[:n*entry], int64(addr/PageSize)*entry); err != nil {
			return nil, fmt.Errorf("ram: pagemap: %w", err)
		}
		for i := range n {
			e := binary.NativeEndian.Uint64(buf[i*entry:])
			if e&(pagePresent|pageSwapped) != 0 && e&pageOfFile == 0 {
				list.add((page+i)*PageSize, PageSize)
			}
		}
		page += n
	}
	return list, nil
}

// extents is a list in the making.
type extents []Extent

// add appends what must not begin before the end of the last one but by overlap.
func (l *extents) add(off, length int64) {
	if n := len(*l); n > 0 {
		if last := &(*l)[n-1]; off <= last.Off+last.Len {
			last.Len = max(last.Len, off+length-last.Off)
			return
		}
	}
	*l = append(*l, Extent{off, length})
}

func union(a, b []Extent) []Extent {
	var list extents
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].Off <= b[0].Off {
			list.add(a[0].Off, a[0].Len)
			a = a[1:]
		} else {
			list.add(b[0].Off, b[0].Len)
			b = b[1:]
		}
	}
	return list
}

// DataExtents lists the parts of a file's first size bytes that are no holes,
// in whole pages.
func DataExtents(f *os.File, size int64) ([]Extent, error) {
	var list extents
	fd := int(f.Fd())
	for off := int64(0); off < size; {
		begin, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("ram: %w", err)
		}
		end, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("ram: %w", err)
		}
		begin, end = begin&^(PageSize-1), min((end+PageSize-1)&^(PageSize-1), size)
		if begin < end {
			list.add(begin, end-begin)
		}
		off = end
	}
	return list, nil
}

// copyChunk is how much one reader copies at a time.
const copyChunk = 1 << 20

// Copy reads the extents into dst, which holds the whole RAM, with as many
// readers as there are processors. It is what a guest waits for while it is
// photographed: dst is best in memory that is there already.
func (r *RAM) Copy(ctx context.Context, dst []byte, list []Extent) error {
	var jobs []Extent
	for _, e := range list {
		for e.Len > 0 {
			n := min(e.Len, copyChunk)
			jobs = append(jobs, Extent{e.Off, n})
			e.Off, e.Len = e.Off+n, e.Len-n
		}
	}
	var next atomic.Int64
	errs := make([]error, min(runtime.GOMAXPROCS(0), len(jobs)))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil {
				j := next.Add(1) - 1
				if j >= int64(len(jobs)) {
					return
				}
				if errs[i] = ctx.Err(); errs[i] == nil {
					_, errs[i] = r.ReadAt(dst[jobs[j].Off:jobs[j].Off+jobs[j].Len], jobs[j].Off)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
