package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyUnit is how much is copied between two looks at the context, in bytes.
const copyUnit = 1 << 20

// Copy makes at to, which must not exist, a file with the content of that at from,
// which nobody may write meanwhile. The two share their blocks where the file
// system can do that, which takes no time; elsewhere what was ever written is
// copied, and the rest stays holes. Both are encrypted, with the same key. It
// does not wait for the medium. On error nothing is at to.
func Copy(ctx context.Context, from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("disk: copy: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("disk: copy: %w", err)
	}
	err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if err != nil { // whatever kept it from being cloned
		err = copyWritten(ctx, src, dst)
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("disk: copy: %w", errors.Join(err, os.Remove(to)))
	}
	return nil
}

// copyWritten copies a file but for its holes.
func copyWritten(ctx context.Context, src, dst *os.File) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(fi.Size()); err != nil {
		return err
	}
	buf := make([]byte, copyUnit)
	for off := int64(0); off < fi.Size(); {
		start, err := src.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole follows
			return nil
		} else if err != nil {
			return err
		}
		if off, err = src.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		for at := start; at < off; at += copyUnit {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			part := buf[:min(copyUnit, off-at)]
			if _, err := io.ReadFull(io.NewSectionReader(src, at, int64(len(part))), part); err != nil {
				return err
			}
			if _, err := dst.WriteAt(part, at); err != nil {
				return err
			}
		}
	}
	return nil
}
