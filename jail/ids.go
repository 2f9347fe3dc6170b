package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
)

// openDir makes the directory, if need be, and returns it open. It refuses one
// that another user made or can write to, and one that a symbolic link leads
// to: whoever controls it decides who gets which user.
func openDir(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, dayfly.Errorf(dayfly.Invalid, "jail: directory %q: it must be an absolute path", path)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("jail: directory: %w", err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, dayfly.Errorf(dayfly.Denied, "jail: directory %s: a symbolic link leads to it: remove the link", path)
	}
	if err != nil {
		return nil, fmt.Errorf("jail: directory %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("jail: directory %s: %w", path, err), f.Close())
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, errors.Join(dayfly.Errorf(dayfly.Denied, "jail: directory %s: user %d made it with mode %04o: it must be root's, and nobody else may write to it; remove it", path, st.Uid, st.Mode&0o7777), f.Close())
	}
	return f, nil
}

// ids gives out user ids. They are slots of one file: who has one holds a lock
// on the slot's bytes, which ends with the process, and has written there which
// process lives in the jail. A slot is free when its lock is and that process is
// gone, so that an orphan keeps its user when its owner dies.
type ids struct {
	file *os.File
	span Range

	mu    sync.Mutex // guards what follows
	taken map[int]bool
	over  bool // release was called: the file is closed with the last slot
}

const (
	idsFile  = "uids"
	slotSize = 64
)

// phase is how far a jail is.
type phase string

const (
	phaseAhead phase = "ahead" // its first process waits, and dies with its owner
	phaseRuns  phase = "runs"
)

// occupant is the process in a jail. Its start time, in ticks since boot, tells
// it from another that got its id later.
type occupant struct {
	pid   int
	start uint64
	phase phase
}

func openIDs(dir *os.File, span Range) (*ids, error) {
	if span.First <= 0 || span.Count <= 0 || int64(span.First)+int64(span.Count) > 1<<32-1 {
		return nil, dayfly.Errorf(dayfly.Invalid, "jail: %v is no range of user ids", span)
	}
	fd, err := unix.Openat(int(dir.Fd()), idsFile, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, dayfly.Errorf(dayfly.Denied, "jail: %s: it is a symbolic link: remove it", filepath.Join(dir.Name(), idsFile))
	}
	if err != nil {
		return nil, fmt.Errorf("jail: %s: %w", filepath.Join(dir.Name(), idsFile), err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), idsFile))
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return nil, errors.Join(dayfly.Errorf(dayfly.Denied, "jail: %s: it is not a file of ours: remove it", f.Name()), err, f.Close())
	}
	return &ids{file: f, span: span, taken: map[int]bool{}}, nil
}

// take locks the first free slot. Free is called with its user id before it is
// handed out, to remove what its last owner may have left.
func (s *ids) take(free func(uid int) error) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0, errClosed
	}
	for i := range s.span.Count {
		ok, err := s.lock(i)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		if o, err := s.read(i); err != nil || o.alive() {
			s.unlock(i)
			continue
		}
		if err := free(s.span.First + i); err != nil {
			s.unlock(i)
			return 0, err
		}
		return s.span.First + i, nil
	}
	return 0, dayfly.Errorf(dayfly.Exhausted, "jail: every user id from %d to %d is taken by a machine: delete or stop some, or give a larger range", s.span.First, s.span.First+s.span.Count-1)
}

var errClosed = dayfly.Errorf(dayfly.Unavailable, "jail: the pool is closed")

// lock reports false for a slot that is taken, here or by another process. The
// caller holds mu.
func (s *ids) lock(i int) (bool, error) {
	if s.taken[i] {
		return false, nil
	}
	err := flock.TryRange(s.file, slot(i, unix.F_WRLCK))
	if errors.Is(err, flock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("jail: lock of user %d: %w", s.span.First+i, err)
	}
	s.taken[i] = true
	return true, nil
}

// unlock lets go of a slot as it is. The caller holds mu.
func (s *ids) unlock(i int) {
	delete(s.taken, i)
	_ = flock.TryRange(s.file, slot(i, unix.F_UNLCK)) // it cannot fail on a file that is open
}

func slot(i int, how int16) unix.Flock_t {
	return unix.Flock_t{Type: how, Start: int64(i) * slotSize, Len: slotSize}
}

// give empties a slot and lets go of it.
func (s *ids) give(uid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := uid - s.span.First
	_, err := s.file.WriteAt(make([]byte, slotSize), int64(i)*slotSize)
	s.unlock(i)
	return errors.Join(err, s.closeLast())
}

// leave lets go of a slot whose occupant stays.
func (s *ids) leave(uid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlock(uid - s.span.First)
	return s.closeLast()
}

// closeLast closes the file with the last slot of a pool that is closed. The
// caller holds mu.
func (s *ids) closeLast() error {
	if s.over && len(s.taken) == 0 {
		return s.file.Close()
	}
	return nil
}

// release closes the file when the last slot is given back.
func (s *ids) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil
	}
	s.over = true
	return s.closeLast()
}

func (s *ids) close() error { return s.file.Close() }

// write says who lives in the jail of a slot that is held.
func (s *ids) write(uid int, o occupant) error {
	b := make([]byte, slotSize)
	copy(b, fmt.Sprintf("%d %d %s\n", o.pid, o.start, o.phase))
	if _, err := s.file.WriteAt(b, int64(uid-s.span.First)*slotSize); err != nil {
		return fmt.Errorf("jail: record of user %d: %w", uid, err)
	}
	return nil
}

// read returns the zero occupant for a slot that nobody wrote to.
func (s *ids) read(i int) (occupant, error) {
	b := make([]byte, slotSize)
	n, err := s.file.ReadAt(b, int64(i)*slotSize)
	if n < slotSize {
		if err != nil && n == 0 {
			return occupant{}, nil // beyond the end
		}
		return occupant{}, err
	}
	return parseOccupant(b), nil
}

// parseOccupant returns the zero occupant for bytes that are none.
func parseOccupant(b []byte) (o occupant) {
	line, _, ok := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if !ok || len(f) != 3 {
		return occupant{}
	}
	pid, err := strconv.Atoi(f[0])
	if err != nil || pid <= 0 {
		return occupant{}
	}
	start, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return occupant{}
	}
	return occupant{pid, start, phase(f[2])}
}

// slots is how many slots may have been written to.
func (s *ids) slots() (int, error) {
	st, err := s.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("jail: %w", err)
	}
	return min(s.span.Count, int((st.Size()+slotSize-1)/slotSize)), nil
}

// alive reports whether that very process still runs.
func (o occupant) alive() bool {
	if o.pid == 0 {
		return false
	}
	start, err := startTime(o.pid)
	return err == nil && start == o.start
}

// began reports whether the process has become its program. Until then it is called
// firstName, and in the midst of it nothing.
func (o occupant) began() bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(o.pid) + "/cmdline")
	name, _, _ := strings.Cut(string(b), "\x00")
	return err == nil && name != "" && name != firstName
}

// startTime is when a process began, in ticks since boot (proc_pid_stat(5)).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest)
	const after = 22 - 3 // the fields before the state and the state
	if !ok || len(f) <= after {
		return 0, fmt.Errorf("jail: process %d: no start time", pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(f[after], 10, 64)
}
