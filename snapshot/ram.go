package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly/dayfly"
)

// The file ram is a header, sealed chunks in the order of their numbers, and a
// sealed index. A chunk is pages, then where they belong (runs of first page
// and count), then the number of runs: whole pages lie aligned at its front,
// and it can be read knowing nothing but its length. The index holds length
// and tag of every chunk. Integers are big-endian.
const (
	ramHeader  = "dayfly-ram\n\x00\x00\x00\x01"
	chunkPages = 256
	chunkBytes = chunkPages * PageSize

	runLen    = 4 + 4 // first page, number of pages
	runsEnd   = 4     // number of runs
	minChunk  = PageSize + runLen + runsEnd
	maxChunk  = chunkBytes + chunkPages*runLen + runsEnd
	entryLen  = 4 + tagLen // length of the plain chunk, its tag
	chunkSlop = runsEnd + tagLen
)

var zeroPage [PageSize]byte

// ramFileSize is the size of a ram file of so many chunks and runs.
func ramFileSize(chunks int, stored int64, runs int) int64 {
	return int64(len(ramHeader)) + stored + int64(chunks)*chunkSlop + int64(runs)*runLen + indexSize(chunks)
}

// indexSize is the size of the sealed index of so many chunks.
func indexSize(chunks int) int64 { return int64(chunks)*entryLen + tagLen }

// ramWriter fills the file ram. Any number of workers share it.
type ramWriter struct {
	src    io.ReaderAt
	file   file
	sealer *sealer

	mu     sync.Mutex // guards what follows
	rest   []Extent   // not yet handed out
	off    int64      // where the next chunk goes
	stored int64
	index  []byte
}

// RAM writes the memory of a machine of size bytes: what src holds in the
// extents. Everything outside them is taken for zero and not read; zero pages
// inside them are not stored. src is read from several goroutines. RAM is
// called once; after an error the Writer can only be aborted.
func (w *Writer) RAM(ctx context.Context, src io.ReaderAt, size int64, extents []Extent) error {
	rest, err := checkExtents(size, extents)
	if err != nil {
		return err
	}
	f, err := w.create(ramName)
	if err != nil {
		return err
	}
	s, err := newSealer(&w.keys.ram, w.keys.salt)
	if err != nil {
		return w.fail(err)
	}
	r := &ramWriter{src: src, file: f, sealer: s, rest: rest, off: int64(len(ramHeader))}
	if _, err := f.WriteAt([]byte(ramHeader), 0); err != nil {
		return w.fail(writeError("the snapshot's memory", err))
	}
	if err := parallel(ctx, r.work); err != nil {
		return w.fail(writeError("the snapshot's memory", err))
	}
	chunks := len(r.index) / entryLen
	index := s.seal(nil, r.index, indexPiece, uint64(chunks))
	if _, err := f.WriteAt(index, r.off); err != nil {
		return w.fail(writeError("the snapshot's memory", err))
	}
	w.body.RAM = RAMInfo{Size: size, Stored: r.stored, Chunks: chunks}
	w.body.Files[0] = stored{ramName, r.off + int64(len(index)), w.keys.digestOf(ramName, []byte(ramHeader), index)}
	return nil
}

// parallel runs as many workers as there are CPUs for this process.
func parallel(ctx context.Context, work func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error { return work(ctx) })
	}
	return g.Wait()
}

// checkExtents returns a sorted copy without the empty ones.
func checkExtents(size int64, extents []Extent) ([]Extent, error) {
	if size <= 0 || size > maxRAM || size%PageSize != 0 {
		return nil, dayfly.Errorf(dayfly.Invalid, "a machine's memory of %d bytes cannot be kept: it must be whole pages, at most 4 TiB", size)
	}
	sorted := slices.DeleteFunc(slices.Clone(extents), func(e Extent) bool { return e.Len == 0 })
	slices.SortFunc(sorted, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	end := int64(0)
	for _, e := range sorted {
		if e.Off%PageSize != 0 || e.Len%PageSize != 0 || e.Off < end || e.Len <= 0 || e.Len > size || e.Off > size-e.Len {
			return nil, dayfly.Errorf(dayfly.Invalid, "extent of %d bytes at %d of a memory of %d: extents must be whole pages, inside, and apart", e.Len, e.Off, size)
		}
		end = e.Off + e.Len
	}
	return sorted, nil
}

func (r *ramWriter) work(ctx context.Context) error {
	buf := make([]byte, maxChunk+tagLen)
	defer clear(buf)
	var window []Extent
	var runs []run
	for ctx.Err() == nil {
		if window = r.next(window[:0]); len(window) == 0 {
			return nil
		}
		n, err := gather(r.src, window, buf, &runs)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if err := r.put(appendRuns(buf[:n], runs), int64(n)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// next appends the next chunk's worth of extents to window.
func (r *ramWriter) next(window []Extent) []Extent {
	r.mu.Lock()
	defer r.mu.Unlock()
	for room := int64(chunkBytes); room > 0 && len(r.rest) > 0; {
		e := &r.rest[0]
		n := min(room, e.Len)
		window = append(window, Extent{e.Off, n})
		room, e.Off, e.Len = room-n, e.Off+n, e.Len-n
		if e.Len == 0 {
			r.rest = r.rest[1:]
		}
	}
	return window
}

// run is neighbouring pages of a chunk.
type run struct{ page, count uint32 }

// gather reads a window to the front of buf, leaves out the zero pages, and
// returns how many bytes are left and where they belong.
func gather(src io.ReaderAt, window []Extent, buf []byte, runs *[]run) (int, error) {
	*runs = (*runs)[:0]
	n := 0
	for _, e := range window {
		part := buf[n : n+int(e.Len)]
		if got, err := src.ReadAt(part, e.Off); got < len(part) {
			return 0, readError("the machine's memory", errors.Join(fmt.Errorf("%d of %d bytes at %d", got, e.Len, e.Off), err))
		}
		for p := 0; p < len(part); p += PageSize {
			page := part[p : p+PageSize]
			if bytes.Equal(page, zeroPage[:]) {
				continue
			}
			copy(buf[n:], page) // nothing to move until the first zero page
			n += PageSize
			addPage(runs, uint32((e.Off+int64(p))/PageSize)) // below maxRAM/PageSize
		}
	}
	return n, nil
}

func addPage(runs *[]run, page uint32) {
	if last := len(*runs) - 1; last >= 0 && (*runs)[last].page+(*runs)[last].count == page {
		(*runs)[last].count++
		return
	}
	*runs = append(*runs, run{page, 1})
}

func appendRuns(b []byte, runs []run) []byte {
	for _, r := range runs {
		b = binary.BigEndian.AppendUint32(b, r.page)
		b = binary.BigEndian.AppendUint32(b, r.count)
	}
	return binary.BigEndian.AppendUint32(b, uint32(len(runs))) // at most chunkPages
}

// put seals a chunk in place and writes it. Its number and its place are taken
// together, so that chunks lie in the order of their numbers.
func (r *ramWriter) put(plain []byte, pages int64) error {
	r.mu.Lock()
	number, off := len(r.index)/entryLen, r.off
	r.index = append(r.index, make([]byte, entryLen)...)
	r.off += int64(len(plain) + tagLen)
	r.stored += pages
	r.mu.Unlock()

	size := len(plain)
	sealed := r.sealer.seal(plain[:0], plain, chunkPiece, uint64(number))
	if _, err := r.file.WriteAt(sealed, off); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entry := r.index[number*entryLen:]
	binary.BigEndian.PutUint32(entry, uint32(size)) // at most maxChunk
	copy(entry[4:entryLen], sealed[size:])
	return nil
}
