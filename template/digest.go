package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// digest is the SHA-256 over the parts and every page of the memory that is not
// all zeros, each with its place.
func digest(memory *os.File, p Parts) (string, error) {
	h := sha256.New()
	for _, b := range [][]byte{p.State, p.Disk} {
		fmt.Fprintf(h, "%d\n", len(b))
		h.Write(b)
	}
	if err := hashPages(h, memory); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func hashPages(h hash.Hash, f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	buf, zero := make([]byte, 1<<20), make([]byte, 4096)
	fd := int(f.Fd())
	for off := int64(0); off < st.Size(); {
		begin, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		begin &^= int64(len(zero)) - 1
		n, err := f.ReadAt(buf, begin)
		if n == 0 {
			return err
		}
		for i := 0; i < n; i += len(zero) {
			// Whether zeros are a hole is the file system's affair.
			if page := buf[i:min(n, i+len(zero))]; string(page) != string(zero[:len(page)]) {
				fmt.Fprintf(h, "%d\n", begin+int64(i))
				h.Write(page)
			}
		}
		off = begin + int64(n)
	}
	return nil
}

// Verify compares every template with its digest and removes those that are
// damaged or of another release. It returns how many those were.
func (s *Store) Verify(ctx context.Context) (removed int, err error) {
	ids, err := s.ids()
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		if s.whole(filepath.Join(s.dir, id)) {
			continue
		}
		if err := s.remove(id); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

func (s *Store) whole(dir string) bool {
	in, err := readInfo(dir)
	if err != nil {
		return false
	}
	parts, err := readParts(dir, in.Key)
	if err != nil {
		return false
	}
	memory, err := os.Open(filepath.Join(dir, memoryFile))
	if err != nil {
		return false
	}
	defer memory.Close()
	got, err := digest(memory, parts)
	return err == nil && got == in.Digest
}
