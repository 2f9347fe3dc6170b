package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// What every root file system is made with. It is only ever read, so it has no
// journal, no reserved blocks and no room to grow; the guest may be emulated,
// so it has no checksums to compute on every read.
var mke2fsArgs = []string{
	"-q", "-F", "-b", "4096", "-I", "256", "-m", "0",
	"-O", "none,dir_index,extent,filetype,flex_bg,large_file,huge_file,dir_nlink,extra_isize,ext_attr,sparse_super,uninit_bg",
	"-U", "da7f1e00-0000-4000-8000-000000000001", // the same for all: content tells images apart
	"-E", "nodiscard,lazy_itable_init=1,root_owner=0:0,hash_seed=da7f1e00-0000-4000-8000-000000000002",
}

const (
	extBlock = 4096
	extInode = 256
	// What a file system has beside inodes and blocks: superblocks, group
	// descriptors and bitmaps, and the guesses of measure.
	extSlack     = 8 << 20
	extSlackPart = 16 // one part in so many
	extInodes    = 64 // reserved ones and a few to spare
	extTries     = 6  // each one doubles the slack
)

// makeRootfs makes an ext4 image of a tree, synced and read-only.
func (s *Store) makeRootfs(ctx context.Context, tree, file string) error {
	need, err := measure(tree)
	if err != nil {
		return err
	}
	fill := s.mke2fs
	if need.widest >= s.wide {
		fill = s.fillMounted
	}
	err = s.grow(ctx, fill, need, tree, file)
	if errors.Is(err, errNoMount) {
		s.log.Info("a directory with many entries will take long: the host cannot mount", "entries", need.widest, "err", err)
		err = s.grow(ctx, s.mke2fs, need, tree, file)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o400), f.Sync(), f.Close())
}

// filler makes a file system of a tree, with so many inodes and bytes.
type filler func(ctx context.Context, tree, file string, inodes, size int64) error

// grow fills a file system that is just large enough.
func (s *Store) grow(ctx context.Context, fill filler, need needs, tree, file string) (err error) {
	slack := extSlack + need.bytes()/extSlackPart
	for range extTries {
		err = fill(ctx, tree, file, need.inodes+extInodes, need.bytes()+slack)
		if !errors.Is(err, errTooSmall) {
			return err
		}
		slack *= 2
	}
	return err
}

var errTooSmall = errors.New("the file system is too small for its content")

func (s *Store) mke2fs(ctx context.Context, tree, file string, inodes, size int64) error {
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return err
	}
	args := append(append([]string{}, mke2fsArgs...),
		"-N", strconv.FormatInt(inodes, 10), "-d", tree, file, strconv.FormatInt(size/extBlock+1, 10))
	if err := run(ctx, "mke2fs", args...); err != nil {
		return err
	}
	if _, err := os.Lstat(tree + "/lost+found"); !os.IsNotExist(err) {
		return err // the image has one of its own
	}
	return run(ctx, "debugfs", "-w", "-R", "rmdir lost+found", file)
}

// run runs a tool of e2fsprogs and gives its failure a meaning.
func run(ctx context.Context, tool string, args ...string) error {
	said, err := runTool(ctx, tool, args...)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(said, "No space left on device"), strings.Contains(said, unix.ENOSPC.Error()):
		return fmt.Errorf("%s: %w", tool, unix.ENOSPC)
	case strings.Contains(said, "Could not allocate"):
		return errTooSmall
	case err != nil:
		return fmt.Errorf("%s: %w: %s", tool, err, said)
	}
	return nil
}

// runTool runs a tool and returns what it said.
func runTool(ctx context.Context, tool string, args ...string) (string, error) {
	path, err := lookTool(tool)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "MKE2FS_CONFIG=/dev/null", "DEBUGFS_PAGER=__none__")
	cmd.Stdout, cmd.Stderr = &out, &out
	err = runTied(cmd)
	return strings.TrimSpace(out.String()), err
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// runTied runs a command that the kernel kills should this process die. That
// signal is tied to the thread that forks, hence the lock.
func runTied(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// lookTool finds a tool also where a user's search path does not lead.
func lookTool(tool string) (string, error) {
	for _, name := range []string{tool, "/usr/sbin/" + tool, "/sbin/" + tool} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", dayfly.Errorf(dayfly.Unavailable, "%s is not installed: install the package e2fsprogs (apt-get install e2fsprogs)", tool)
}

// needs is what a tree takes in ext4.
type needs struct {
	inodes, blocks int64
	widest         int // entries of its largest directory
}

func (n needs) bytes() int64 { return n.blocks*extBlock + n.inodes*extInode }

// measure adds up what a tree takes. Blocks that the host's file system has
// not allocated are taken for holes; where it compresses, mke2fs finds the
// result too small and is given more.
func measure(tree string) (needs, error) {
	fd, err := unix.Open(tree, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return needs{}, err
	}
	m := measurer{seen: map[uint64]bool{}}
	err = m.dir(fd)
	return m.needs, err
}

type measurer struct {
	needs
	seen map[uint64]bool // inodes with more than one name
}

// dir measures a directory and what is below. It closes fd. Paths are relative
// to open directories, as they may be longer than the kernel takes in one piece.
func (m *measurer) dir(fd int) error {
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	size := int64(24) // "." and ".."
	for _, name := range names {
		const head, round = 8, 4 // of a directory entry
		size += (head + int64(len(name)) + round - 1) / round * round
		if err := m.entry(fd, name); err != nil {
			return err
		}
	}
	m.inodes++
	m.widest = max(m.widest, len(names))
	m.blocks += size/extBlock + 1
	if len(names) >= wideDir {
		m.blocks += size / extBlock // the kernel's index leaves blocks half full
	}
	return nil
}

func (m *measurer) entry(at int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return m.dir(fd)
	}
	if st.Nlink > 1 {
		if m.seen[st.Ino] {
			return nil
		}
		m.seen[st.Ino] = true
	}
	m.inodes++
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		m.blocks += (st.Blocks*512 + extBlock - 1) / extBlock
	case unix.S_IFLNK:
		const inInode = 60
		if st.Size >= inInode {
			m.blocks++
		}
	}
	return nil
}
