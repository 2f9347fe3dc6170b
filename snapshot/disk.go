package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// unitBytes is how much of a disk layer is hashed in one go.
const unitBytes = 1 << 20

// Disk adds the next layer of the disk, the lowest first, by a hard link to
// the file at path: nobody may write to that file from then on. Where no link
// can be made, such as to another file system, its blocks are shared by a
// reflink, and where there is none of that either its data is copied.
func (w *Writer) Disk(ctx context.Context, path, format string) error {
	if err := w.usable(); err != nil {
		return err
	}
	if format != Raw && format != Qcow2 {
		return dayfly.Errorf(dayfly.Invalid, "disk layer of format %q: it must be raw or qcow2", format)
	}
	if len(w.body.Disks) == maxDisks {
		return dayfly.Errorf(dayfly.Exhausted, "the disk has more than %d layers: merge some first", maxDisks)
	}
	if st, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return dayfly.Errorf(dayfly.NotFound, "the disk layer is not there: %w", fs.ErrNotExist)
	} else if err != nil {
		return readError("the disk layer", err)
	} else if !st.Mode().IsRegular() {
		return dayfly.Errorf(dayfly.Invalid, "the disk layer must be a regular file")
	}
	name := diskName(len(w.body.Disks))
	to := filepath.Join(w.at, name)
	err := w.files.Link(path, to)
	if isLinkless(err) {
		err = copyFile(ctx, w.files, path, to)
	}
	if err != nil {
		return w.fail(writeError("the snapshot's "+name, err))
	}
	w.body.Disks = append(w.body.Disks, Disk{Name: name, Format: format})
	return nil
}

// isLinkless reports whether a file cannot be linked but may be copied: it is
// on another file system, on one without links, has too many, or belongs to
// another user where links to such files are forbidden.
func isLinkless(err error) bool {
	for _, no := range []syscall.Errno{unix.EXDEV, unix.EOPNOTSUPP, unix.ENOSYS, unix.EMLINK, unix.EPERM} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func copyFile(ctx context.Context, on files, from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := on.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if on.Clone(src, dst) == nil {
		return nil
	}
	return copySparse(ctx, src, dst) // whatever kept it from being cloned
}

func copySparse(ctx context.Context, src *os.File, dst file) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	buf := make([]byte, unitBytes)
	return dataRanges(src, st.Size(), func(start, end int64) error {
		for off := start; off < end; off += unitBytes {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(unitBytes, end-off)]
			if _, err := io.ReadFull(io.NewSectionReader(src, off, int64(len(part))), part); err != nil {
				return err
			}
			if _, err := dst.WriteAt(part, off); err != nil {
				return err
			}
		}
		return nil
	})
}

// dataRanges calls do for every part of f below size that is not a hole.
func dataRanges(f *os.File, size int64, do func(start, end int64) error) error {
	for off := int64(0); off < size; {
		start, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole follows
			return nil
		} else if err != nil {
			return err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if off = min(end, size); start < off {
			if err := do(start, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// sealDisks fills in what the manifest says of the layers.
func (w *Writer) sealDisks(ctx context.Context) error {
	for i := range w.body.Disks {
		d := &w.body.Disks[i]
		if err := w.sealDisk(ctx, d); err != nil {
			return readError("the snapshot's "+d.Name, err)
		}
	}
	return nil
}

func (w *Writer) sealDisk(ctx context.Context, d *Disk) error {
	f, err := os.Open(filepath.Join(w.at, d.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	d.Size = st.Size()
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		d.Allocated = sys.Blocks * 512
	}
	d.Digest, err = w.keys.diskDigest(ctx, d.Name, f, d.Size)
	return err
}

// units are the parts of a file that may hold data, each unitBytes long, and
// what they hash to.
type units struct {
	file    io.ReaderAt
	size    int64
	numbers []int64
	sums    [][sha256.Size]byte
	zero    []bool
	next    atomic.Int64
}

// diskDigest is the keyed digest of name, size, and number and SHA-256 of
// every unit that is not all zeros. So it does not depend on which zeros are
// holes, and a large disk that is nearly empty takes no time.
func (k *keys) diskDigest(ctx context.Context, name string, f *os.File, size int64) (string, error) {
	u := &units{file: f, size: size}
	err := dataRanges(f, size, func(start, end int64) error {
		for n := start / unitBytes; n*unitBytes < end; n++ {
			if last := len(u.numbers) - 1; last < 0 || u.numbers[last] < n {
				u.numbers = append(u.numbers, n)
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return "", err
	}
	u.sums, u.zero = make([][sha256.Size]byte, len(u.numbers)), make([]bool, len(u.numbers))
	if err := parallel(ctx, u.work); err != nil {
		return "", err
	}
	h := k.digester(name)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(size))) // never negative
	for i, n := range u.numbers {
		if !u.zero[i] {
			h.Write(append(binary.BigEndian.AppendUint64(nil, uint64(n)), u.sums[i][:]...))
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (u *units) work(ctx context.Context) error {
	buf := make([]byte, unitBytes)
	for ctx.Err() == nil {
		i := u.next.Add(1) - 1
		if i >= int64(len(u.numbers)) {
			return nil
		}
		off := u.numbers[i] * unitBytes
		part := buf[:min(unitBytes, u.size-off)]
		if n, err := u.file.ReadAt(part, off); n < len(part) {
			return fmt.Errorf("%d of %d bytes at %d: %w", n, len(part), off, err)
		}
		if u.zero[i] = isZero(part); !u.zero[i] {
			u.sums[i] = sha256.Sum256(part)
		}
	}
	return ctx.Err()
}

func isZero(b []byte) bool {
	for ; len(b) > PageSize; b = b[PageSize:] {
		if !bytes.Equal(b[:PageSize], zeroPage[:]) {
			return false
		}
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
