package layer

import (
	"bytes"
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

const (
	copyBufBytes = 256 << 10 // fits a core's second-level cache
	blockBytes   = 4096      // what a file system can leave out
)

var zeroBlock [blockBytes]byte

// file makes a regular file. Blocks of zeros become holes, so a sparse file
// costs what it holds, however the archive stores it.
func (r *Root) file(ctx context.Context, it item) error {
	if r.fileBytes += it.hdr.Size; it.hdr.Size < 0 || r.fileBytes < 0 || r.fileBytes > r.limits.FileBytes {
		return exceeded(it.hdr.Name, "bytes of all files", r.fileBytes, r.limits.FileBytes)
	}
	fd, err := unix.Openat(it.parent.fd, it.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	err = r.fill(ctx, fd, it)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return err
}

func (r *Root) fill(ctx context.Context, fd int, it item) error {
	var at, end int64 // end is where the last data ends
	for {
		n, err := io.ReadFull(it.content, r.buf)
		if werr := writeData(fd, r.buf[:n], at, &end); werr != nil {
			return werr
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if at != it.hdr.Size {
		return invalid(it.hdr.Name, "ends after %d of %d bytes", at, it.hdr.Size)
	}
	if end != at {
		return unix.Ftruncate(fd, at)
	}
	return nil
}

// writeData writes the runs of blocks in b that are not all zero.
func writeData(fd int, b []byte, at int64, end *int64) error {
	for len(b) > 0 {
		skip := run(b, true)
		b, at = b[skip:], at+int64(skip)
		data := run(b, false)
		for rest := b[:data]; len(rest) > 0; {
			n, err := unix.Pwrite(fd, rest, at)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			rest, at = rest[n:], at+int64(n)
			*end = at
		}
		b = b[data:]
	}
	return nil
}

// run returns how many bytes b begins with whose blocks are, or are not, zero.
func run(b []byte, zero bool) int {
	n := 0
	for n < len(b) {
		block := b[n:min(n+blockBytes, len(b))]
		if bytes.Equal(block, zeroBlock[:len(block)]) != zero {
			break
		}
		n += len(block)
	}
	return n
}
