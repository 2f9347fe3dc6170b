package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/dayfly/dayfly"
)

// LoadRAM writes the stored pages to dst, which is taken to hold zeros, from
// several goroutines at once. Every chunk is authenticated before any of it is
// written; after an error others may have been. It may run at the same time as
// the other methods, Close excepted.
func (g *Generation) LoadRAM(ctx context.Context, dst io.WriterAt) error {
	if err := g.usable(); err != nil {
		return err
	}
	f, err := g.open(ramName, g.body.Files[0].Size)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := newSealer(&g.keys.ram, g.keys.salt)
	if err != nil {
		return err
	}
	places, err := g.readIndex(f, s)
	if err != nil {
		return err
	}
	r := &ramReader{file: f, sealer: s, places: places, size: g.body.RAM.Size, dst: dst}
	if err := parallel(ctx, r.work); err != nil {
		return err
	}
	if got := r.loaded.Load(); got != g.body.RAM.Stored {
		return damaged(ramName, "%d of %d bytes of pages", got, g.body.RAM.Stored)
	}
	return nil
}

// place is where a chunk lies in the file.
type place struct {
	off  int64
	size int // plain
	tag  [tagLen]byte
}

// readIndex returns the places of all chunks. Its length follows from the
// manifest, which has been authenticated and compared with the file's size.
func (g *Generation) readIndex(f io.ReaderAt, s *sealer) ([]place, error) {
	size, chunks := g.body.Files[0].Size, g.body.RAM.Chunks
	header, index := make([]byte, len(ramHeader)), make([]byte, indexSize(chunks))
	at := size - int64(len(index))
	if err := readFull(f, ramName, header, 0); err != nil {
		return nil, err
	}
	if err := readFull(f, ramName, index, at); err != nil {
		return nil, err
	}
	if string(header) != ramHeader || !same(g.keys.digestOf(ramName, header, index), g.body.Files[0].Digest) {
		return nil, damaged(ramName, "header or index")
	}
	plain, err := s.open(index, indexPiece, uint64(chunks))
	if err != nil {
		return nil, damaged(ramName, "index")
	}
	return places(plain, at)
}

// places decodes an index; the chunks fill the file up to end.
func places(index []byte, end int64) ([]place, error) {
	all, off := make([]place, len(index)/entryLen), int64(len(ramHeader))
	for i := range all {
		entry := index[i*entryLen : (i+1)*entryLen]
		n := binary.BigEndian.Uint32(entry)
		if n < minChunk || n > maxChunk {
			return nil, damaged(ramName, "chunk %d of %d bytes", i, n)
		}
		all[i] = place{off: off, size: int(n), tag: [tagLen]byte(entry[4:])}
		off += int64(n) + tagLen
	}
	if off != end {
		return nil, damaged(ramName, "chunks end at %d, the index begins at %d", off, end)
	}
	return all, nil
}

// ramReader empties the file ram. Any number of workers share it.
type ramReader struct {
	file   io.ReaderAt
	sealer *sealer
	places []place
	size   int64 // of the machine's memory
	dst    io.WriterAt
	next   atomic.Int64
	loaded atomic.Int64
}

func (r *ramReader) work(ctx context.Context) error {
	buf := make([]byte, maxChunk+tagLen)
	defer clear(buf)
	for ctx.Err() == nil {
		i := r.next.Add(1) - 1
		if i >= int64(len(r.places)) {
			return nil
		}
		p := r.places[i]
		sealed := buf[:p.size+tagLen]
		if err := readFull(r.file, ramName, sealed, p.off); err != nil {
			return err
		}
		if !bytes.Equal(sealed[p.size:], p.tag[:]) {
			return damaged(ramName, "tag of chunk %d", i)
		}
		plain, err := r.sealer.open(sealed, chunkPiece, uint64(i))
		if err != nil {
			return damaged(ramName, "chunk %d", i)
		}
		pages, runs, err := splitChunk(plain, r.size)
		if err != nil {
			return damaged(ramName, "chunk %d: %v", i, err)
		}
		if err := r.write(pages, runs); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (r *ramReader) write(pages, runs []byte) error {
	r.loaded.Add(int64(len(pages)))
	for ; len(runs) > 0; runs = runs[runLen:] {
		off, n := runAt(runs)
		if _, err := r.dst.WriteAt(pages[:n], off); err != nil {
			return loadError(err)
		}
		pages = pages[n:]
	}
	return nil
}

func loadError(err error) error {
	out := writeError("the machine's memory", err)
	if dayfly.KindOf(out) == dayfly.Exhausted {
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no memory left to load the snapshot into: stop other workspaces and try again", Err: err}
	}
	return out
}

// splitChunk parts the pages of a chunk from their runs, which lie inside a
// memory of size bytes and name as many pages as there are.
func splitChunk(plain []byte, size int64) (pages, runs []byte, err error) {
	if len(plain) < minChunk || len(plain) > maxChunk {
		return nil, nil, fmt.Errorf("%d bytes", len(plain))
	}
	count := int64(binary.BigEndian.Uint32(plain[len(plain)-runsEnd:]))
	rest := plain[:len(plain)-runsEnd]
	if count < 1 || count > chunkPages || count*runLen > int64(len(rest)) {
		return nil, nil, fmt.Errorf("%d runs", count)
	}
	split := int64(len(rest)) - count*runLen
	pages, runs = rest[:split], rest[split:]
	left := split
	for r := runs; len(r) > 0; r = r[runLen:] {
		off, n := runAt(r)
		if n == 0 || n > left || off > size-n {
			return nil, nil, fmt.Errorf("run of %d bytes at %d", n, off)
		}
		left -= n
	}
	if left != 0 {
		return nil, nil, fmt.Errorf("%d bytes without a place", left)
	}
	return pages, runs, nil
}

// runAt returns offset and length of the first of runs, in bytes.
func runAt(runs []byte) (off, n int64) {
	return int64(binary.BigEndian.Uint32(runs)) * PageSize, int64(binary.BigEndian.Uint32(runs[4:])) * PageSize
}

// readFull fills b from a file of the generation. Less than that means that
// the file was cut short since its size was checked.
func readFull(f io.ReaderAt, name string, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return damaged(name, "%d bytes missing at %d", len(b)-n, off)
	}
	return readError("the snapshot's "+name, err)
}

// openFile opens for reading without following a link or waiting for the
// writer of a pipe.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// open opens a file of the generation and makes sure of its size.
func (g *Generation) open(name string, size int64) (*os.File, error) {
	f, err := openFile(g.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, damaged(name, "missing")
	} else if err != nil {
		return nil, readError("the snapshot's "+name, err)
	}
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() && st.Size() == size {
		return f, nil
	}
	defer f.Close()
	if err != nil {
		return nil, readError("the snapshot's "+name, err)
	}
	return nil, damaged(name, "%d bytes, not %d", st.Size(), size)
}
