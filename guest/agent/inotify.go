package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inotify is the kernel's reports on a set of directories. fsnotify is not
// used: it does not watch recursively, and where a directory moves within what
// is watched it may drop the watch just made at the new name. Its methods are
// for one goroutine, but for close and wake.
type inotify struct {
	file  *os.File
	paths map[int32]string // by watch descriptor, which the kernel does not reuse
	wds   map[string]int32
	woken atomic.Bool
	buf   [16 << 10]byte
}

// report is one event of inotify(7), with the path it is about.
type report struct {
	path string // of the entry, or of the directory itself
	self bool   // it is about a watched directory, not an entry of one
	mask uint32
}

const (
	inotifyEvents = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	inotifyHeader = 16 // bytes of struct inotify_event before the name: wd, mask, cookie, len
)

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &inotify{
		file:  os.NewFile(uintptr(fd), "inotify"),
		paths: map[int32]string{},
		wds:   map[string]int32{},
	}, nil
}

// add watches one directory. A directory watched before gets its new name.
func (in *inotify) add(dir string, follow bool) error {
	mask := uint32(inotifyEvents)
	if !follow {
		mask |= unix.IN_DONT_FOLLOW
	}
	wd, err := in.control(func(fd int) (int, error) { return unix.InotifyAddWatch(fd, dir, mask) })
	if err != nil {
		return err
	}
	if old, ok := in.paths[int32(wd)]; ok {
		delete(in.wds, old)
	}
	in.paths[int32(wd)] = dir
	in.wds[dir] = int32(wd)
	return nil
}

// forget stops watching a directory and all below it.
func (in *inotify) forget(dir string) {
	for path, wd := range in.wds {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			_, _ = in.control(func(fd int) (int, error) { return unix.InotifyRmWatch(fd, uint32(wd)) }) // gone: as well
			delete(in.wds, path)
			delete(in.paths, wd)
		}
	}
}

func (in *inotify) control(call func(fd int) (int, error)) (n int, err error) {
	raw, err := in.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = call(int(fd)) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// read waits for reports until the deadline, a wake, or close. Reports from
// directories that are not watched any more are left out.
func (in *inotify) read(deadline time.Time) ([]report, error) {
	if err := in.file.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	if in.woken.Load() { // before the deadline was set, which undid it
		return nil, os.ErrDeadlineExceeded
	}
	return in.next()
}

func (in *inotify) next() ([]report, error) {
	n, err := in.file.Read(in.buf[:])
	if err != nil {
		return nil, err
	}
	var out []report
	for b := in.buf[:n]; len(b) >= inotifyHeader; {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := inotifyHeader + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			break // the kernel sends whole events only
		}
		name := string(bytes.TrimRight(b[inotifyHeader:size], "\x00"))
		b = b[size:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return nil, errLost
		}
		dir, ok := in.paths[wd]
		if !ok {
			continue
		}
		if mask&unix.IN_IGNORED != 0 {
			delete(in.paths, wd)
			delete(in.wds, dir)
			continue
		}
		out = append(out, report{filepath.Join(dir, name), name == "", mask})
	}
	return out, nil
}

// wake makes a read under way, and every later one, return
// os.ErrDeadlineExceeded.
func (in *inotify) wake() {
	in.woken.Store(true)
	_ = in.file.SetReadDeadline(longAgo())
}

// close ends all watches; a read under way returns.
func (in *inotify) close() { _ = in.file.Close() }

// inotifyFull says that a limit of the kernel was met.
func inotifyFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE)
}
