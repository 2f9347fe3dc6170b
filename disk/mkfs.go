package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// recipe is the version of the file system that mkfs makes. Changing the
// arguments below means raising it, which leaves old seeds unused.
const recipe = 1

const (
	// features of the file system, spelt out so that the host's mke2fs.conf
	// has no say. meta_bg instead of resize_inode: the group descriptors are
	// not copied into every backup, and the disk can still be grown online.
	// No 64bit: it is for more than 16 TiB.
	features = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,meta_bg,sparse_super," +
		"large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

	// flexGroup is how many block groups share one place for their bitmaps and
	// inode tables. The more, the fewer blocks a large empty disk has to seed.
	flexGroup = 256

	// A large disk has fewer inodes for its size, as mke2fs does it for "huge".
	inodeRatio      = 16 << 10
	largeInodeRatio = 64 << 10
	largeDisk       = 64 << 30

	// From journalFrom on the journal has a fixed size; below, mke2fs takes a
	// small one that fits. It is never written here beyond its first block.
	journalFrom = 2 << 30
	journalMiB  = 64

	mkfsTimeout = time.Minute
	maxComplain = 1 << 10 // bytes of mke2fs's own words kept for an error
)

// mkfs makes an empty ext4 of size bytes and returns the blocks of it. The
// file system is made in anonymous memory, so a killed process leaves nothing
// and the cost is that of the blocks written.
func mkfs(ctx context.Context, size int64) (*seed, error) {
	fd, err := unix.MemfdCreate("dayfly-seed", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, seedError(err)
	}
	f := os.NewFile(uintptr(fd), "seed")
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return nil, seedError(err)
	}
	if err := mke2fs(ctx, f, size); err != nil {
		return nil, err
	}
	s, err := writtenBlocks(f, size)
	if err != nil {
		return nil, seedError(err)
	}
	return s, nil
}

func mke2fs(ctx context.Context, f *os.File, size int64) error {
	bin, err := findMke2fs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mkfsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, mke2fsArgs(size)...)
	cmd.ExtraFiles = []*os.File{f}
	// Without UNIX_IO_NOZEROOUT mke2fs zeroes blocks by punching holes, and
	// those would be lost: what is a hole here is garbage on the disk.
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null", "UNIX_IO_NOZEROOUT=1", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return seedError(ctx.Err())
	}
	if err != nil {
		return seedError(fmt.Errorf("%w: %s", err, bytes.TrimSpace(out[:min(len(out), maxComplain)])))
	}
	return nil
}

func mke2fsArgs(size int64) []string {
	ratio := inodeRatio
	if size > largeDisk {
		ratio = largeInodeRatio
	}
	args := []string{
		"-q", "-F", "-b", strconv.Itoa(BlockSize), "-I", "256", "-m", "0",
		"-O", features, "-G", strconv.Itoa(flexGroup), "-i", strconv.Itoa(ratio),
		// Nothing beyond these blocks is read before it is written: block groups
		// are marked uninitialised, the guest mounts with noinit_itable, and a
		// journal whose first block says "empty" is not looked at.
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
	}
	if size >= journalFrom {
		args = append(args, "-J", "size="+strconv.Itoa(journalMiB))
	}
	return append(args, "/proc/self/fd/3", strconv.FormatInt(size/BlockSize, 10))
}

// findMke2fs also looks where a user's PATH usually does not.
func findMke2fs() (string, error) {
	for _, name := range []string{"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", dayfly.Errorf(dayfly.Unavailable, "mke2fs is not installed: install the package e2fsprogs")
}

// writtenBlocks collects every block of f that was written. Memory is handed
// out by page: where pages are larger than blocks, some zero blocks come along.
func writtenBlocks(f *os.File, size int64) (*seed, error) {
	s := &seed{size: size}
	for off := int64(0); off < size; {
		start, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole follows
			break
		} else if err != nil {
			return nil, err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		n := int(end-start) / BlockSize
		if len(s.index)+n > maxBlocks {
			return nil, fmt.Errorf("mke2fs wrote more than %d blocks", maxBlocks)
		}
		for i := range n {
			s.index = append(s.index, uint64(start)/BlockSize+uint64(i)) // never negative
		}
		run := make([]byte, n*BlockSize)
		if _, err := io.ReadFull(io.NewSectionReader(f, start, int64(len(run))), run); err != nil {
			return nil, err
		}
		s.data = append(s.data, run...)
		off = end
	}
	if len(s.index) == 0 {
		return nil, errors.New("mke2fs wrote nothing")
	}
	return s, nil
}

func seedError(err error) error {
	if strings.Contains(err.Error(), unix.ENOMEM.Error()) || errors.Is(err, unix.ENOSPC) {
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no memory left to make an empty file system: stop workspaces", Err: err}
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "an empty file system cannot be made: see the log", Err: err}
}
