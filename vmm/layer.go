package vmm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What an empty qcow2 file consists of (docs/interop/qcow2.txt of QEMU, version
// 3), one cluster each: the header, the table and the one block of reference
// counts, and the first-level table, which is all zeros.
const (
	clusterBits   = 16
	cluster       = 1 << clusterBits
	refTableAt    = 1 * cluster
	refBlockAt    = 2 * cluster
	l1TableAt     = 3 * cluster
	layerClusters = 4

	layerMagic      = "QFI\xfb"
	l1TableAtHeader = 40 // where the header says where that table is

	perL1Entry = cluster * cluster / 8 // bytes of the disk that an entry of the first-level table covers
	maxLayer   = perL1Entry * cluster / 8
)

// CreateLayer makes at path, which must not exist, an empty layer for a drive
// of size bytes: a qcow2 file that names no file below it, so that layers may be
// linked and moved. What lies below is said in a Drive. It is there whole and with
// its content on the medium, or not at all; its name is when the directory is synced.
// A process that dies may leave LayerPart(path).
func CreateLayer(path string, size int64) error {
	if size <= 0 || size > maxLayer {
		return fmt.Errorf("layer of %d bytes: 1 to %d can be", size, int64(maxLayer))
	}
	part := LayerPart(path)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("layer: %w", err)
	}
	if err = writeLayer(f, size); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, part, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that does not know it
		if err = os.Link(part, path); err == nil {
			err = os.Remove(part)
		}
	}
	if err != nil {
		return fmt.Errorf("layer: %w", errors.Join(err, os.Remove(part)))
	}
	return nil
}

// LayerPart is where a layer is until it is whole.
func LayerPart(path string) string {
	return filepath.Join(filepath.Dir(path), ".new-"+filepath.Base(path))
}

// LayerIsEmpty reports whether a layer is as CreateLayer made it. A machine that
// has it must be paused.
func LayerIsEmpty(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("layer: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("layer: %w", err)
	}
	if fi.Size() != layerClusters*cluster { // all that is written comes behind
		return false, nil
	}
	b := make([]byte, fi.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return false, fmt.Errorf("layer: %w", err)
	}
	isLayer := string(b[:4]) == layerMagic && binary.BigEndian.Uint64(b[l1TableAtHeader:]) == l1TableAt
	return isLayer && len(bytes.Trim(b[l1TableAt:], "\x00")) == 0, nil
}

func writeLayer(f *os.File, size int64) error {
	if err := f.Truncate(layerClusters * cluster); err != nil {
		return err
	}
	if _, err := f.WriteAt(layerHeader(size), 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, refBlockAt), refTableAt); err != nil {
		return err
	}
	var counts []byte
	for range layerClusters {
		counts = binary.BigEndian.AppendUint16(counts, 1)
	}
	_, err := f.WriteAt(counts, refBlockAt)
	return err
}

func layerHeader(size int64) []byte {
	const version, refCountOrder, length = 3, 4, 104
	be := binary.BigEndian
	h := []byte(layerMagic)
	h = be.AppendUint32(h, version)
	h = be.AppendUint64(h, 0) // no name of a backing file
	h = be.AppendUint32(h, 0)
	h = be.AppendUint32(h, clusterBits)
	h = be.AppendUint64(h, uint64(size))
	h = be.AppendUint32(h, 0) // no encryption of its own
	h = be.AppendUint32(h, uint32((size+perL1Entry-1)/perL1Entry))
	h = be.AppendUint64(h, l1TableAt)
	h = be.AppendUint64(h, refTableAt)
	h = be.AppendUint32(h, 1) // clusters of the table of reference counts
	h = be.AppendUint32(h, 0) // no snapshots inside
	h = be.AppendUint64(h, 0)
	h = be.AppendUint64(h, 0) // features
	h = be.AppendUint64(h, 0)
	h = be.AppendUint64(h, 0)
	h = be.AppendUint32(h, refCountOrder)
	return be.AppendUint32(h, length)
}
