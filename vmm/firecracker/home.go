package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
	"github.com/dayfly/dayfly/vmm"
)

// ownerLock is a file that the machine's owner holds with flock.
const ownerLock = "owner.lock"

// home is a machine's directory: the names in it that are the driver's.
type home struct {
	dir   *os.File // so that a long path does not matter: a socket's has 107 bytes
	owner *os.File

	mu     sync.Mutex
	gone   bool     // dir is closed: its number may be another directory's
	inside *os.File // Firecracker's directory; nil: it is this one
}

// openHome opens a machine's directory and becomes the machine's owner.
func openHome(ctx context.Context, dir string) (*home, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("firecracker: %w", err)
	}
	h := &home{dir: d}
	h.owner, err = os.OpenFile(h.path(ownerLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = flock.Within(ctx, flock.Moment, func() error { return flock.Try(h.owner, unix.LOCK_EX) })
	}
	if err == nil {
		return h, nil
	}
	if h.owner != nil {
		_ = h.owner.Close() // without a word to its holder
		h.owner = nil
	}
	h.close()
	if errors.Is(err, flock.ErrHeld) {
		return nil, dayfly.Errorf(dayfly.Conflict, "the machine has an owner already: end that process, or let it go first")
	}
	return nil, fmt.Errorf("firecracker: %w", bare(err))
}

// path is good until the home is closed, and has few bytes.
func (h *home) path(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", h.dir.Fd(), name)
}

// use calls do unless the home is closed. Nothing is closed meanwhile.
func (h *home) use(do func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return net.ErrClosed
	}
	return do()
}

// clear removes every name of ours, such as those that a killed owner left.
func (h *home) clear() error {
	return h.use(func() error {
		names := []string{apiSocket, vsockSocket, roomName, consolePipe, logPipe, metricsPipe}
		for i := range vmm.MaxDrives {
			names = append(names, driveName(i), newName(driveName(i)))
		}
		var errs []error
		for _, name := range names {
			if err := os.Remove(h.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, bare(err))
			}
		}
		return errors.Join(errs...)
	})
}

// remove takes away what is ours, and closes.
func (h *home) remove() error {
	err := h.clear()
	err = errors.Join(err, h.use(func() error { return bare(os.Remove(h.path(ownerLock))) }))
	h.close()
	if errors.Is(err, fs.ErrNotExist) { // the caller has removed it all already
		return nil
	}
	return err
}

// close lets go and leaves all names there.
func (h *home) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return
	}
	h.gone = true
	if h.owner != nil {
		// A child of ours that has yet to become another program has it, too.
		_ = unix.Flock(int(h.owner.Fd()), unix.LOCK_UN)
		_ = h.owner.Close()
	}
	closeAll([]*os.File{h.dir, h.inside})
}

// makeRoom makes the room of a Firecracker that lives in this directory.
func (h *home) makeRoom() error {
	return h.use(func() error { return bare(os.Mkdir(h.path(roomName), 0o700)) })
}

// enter has sockets found in another directory than this one. It takes it over.
func (h *home) enter(dir *os.File) error {
	err := h.use(func() error {
		closeAll([]*os.File{h.inside})
		h.inside = dir
		return nil
	})
	if err != nil {
		_ = dir.Close()
	}
	return err
}

// connect dials a unix socket of Firecracker's. What it has made under that name
// may be anything, a link to somewhere of ours too: so it is opened first, by a
// way that follows none, and the socket that was found is what is dialled.
func (h *home) connect(ctx context.Context, name string) (c net.Conn, err error) {
	err = h.use(func() error {
		found, err := h.socket(name)
		if err != nil {
			return bare(err)
		}
		defer unix.Close(found)
		var d net.Dialer
		c, err = d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", found))
		return err
	})
	return c, err
}

var errNoSocket = errors.New("what the VMM has in a socket's place is none")

func (h *home) socket(name string) (int, error) {
	in := h.inside
	if in == nil {
		in = h.dir
	}
	fd, err := unix.Openat2(int(in.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = errNoSocket
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// newName is the name of a link that is to take the place of another.
func newName(name string) string { return name + ".new" }

// link makes name lead to a file, whatever it led to before.
func (h *home) link(target, name string) error {
	return h.use(func() error {
		if err := os.Remove(h.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return bare(err)
		}
		return bare(os.Symlink(target, h.path(name)))
	})
}

// replace puts the new link of a name in its place.
func (h *home) replace(name string) error {
	return h.use(func() error { return bare(os.Rename(h.path(newName(name)), h.path(name))) })
}

func (h *home) unlink(name string) error {
	return h.use(func() error { return bare(os.Remove(h.path(name))) })
}

// target is where a link leads to.
func (h *home) target(name string) (to string, err error) {
	err = h.use(func() error {
		to, err = os.Readlink(h.path(name))
		return bare(err)
	})
	return to, err
}

// bare takes the path, with a number that says nothing, out of an error.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s %s: %w", p.Op, filepath.Base(p.Path), p.Err)
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return fmt.Errorf("%s %s: %w", l.Op, filepath.Base(l.New), l.Err)
	}
	return err
}

// memoryFile makes an empty file that has no name and is never on a disk.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("firecracker: %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// refusingFile makes one that nobody can write to.
func refusingFile(name string) (*os.File, error) {
	f, err := memoryFile(name)
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("firecracker: %s: %w", name, err)
	}
	return f, nil
}

// closeAll closes what is there.
func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
