// Package layer applies OCI layer archives to a directory, oldest first, with
// the meaning containerd gives them: whiteouts and opaque markers remove what
// lower layers put there and nothing of their own layer, directories merge,
// everything else replaces, and missing parents appear with mode 0755.
//
// It knows nothing of digests, compression or images: it reads a tar stream.
//
// Always true: no name and no link in an archive reaches outside the root,
// because every path is opened with openat2(RESOLVE_IN_ROOT) and changed only
// through the descriptor of its parent; every bound of Limits holds before the
// entry that would break it is written; nothing else may use the directory
// while a Root is open on it.
package layer

import (
	"errors"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Limits bound what archives may put into one root, over all its layers. A
// zero field stands for its default.
type Limits struct {
	Entries    int   // files, directories and markers; default 2,000,000
	FileBytes  int64 // sum of the file sizes, holes included; default 1 TiB
	Depth      int   // directories above an entry; default 256
	PathBytes  int   // bytes of a path; default 4095, PATH_MAX of Linux without its NUL
	XattrBytes int   // names and values of one entry's extended attributes; default 3584
}

// DefaultLimits fit every image we know of by a wide margin. The one for
// extended attributes is what fits the single 4 KiB block that ext4 has for
// them beside its headers.
var DefaultLimits = Limits{
	Entries:    2_000_000,
	FileBytes:  1 << 40,
	Depth:      256,
	PathBytes:  4095,
	XattrBytes: 3584,
}

// Normal returns l with its defaults filled in.
func (l Limits) Normal() Limits {
	d := DefaultLimits
	l.Entries = orDefault(l.Entries, d.Entries)
	l.FileBytes = orDefault(l.FileBytes, d.FileBytes)
	l.Depth = orDefault(l.Depth, d.Depth)
	l.PathBytes = orDefault(l.PathBytes, d.PathBytes)
	l.XattrBytes = orDefault(l.XattrBytes, d.XattrBytes)
	return l
}

func orDefault[T int | int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Root is a directory that layers are applied to. It is used by one goroutine
// at a time.
type Root struct {
	fd     int    // O_PATH
	dir    string // without symbolic links
	limits Limits
	log    *slog.Logger
	buf    []byte

	entries   int
	fileBytes int64

	parent dirRef            // the directory the last entry went to
	own    map[place]bool    // what the layer being applied has put in place
	times  map[string]dirAge // directories of this layer, whose times are set last
}

// place names a directory entry for good: directories have one name only, and
// an inode number that a removed directory of this layer leaves to another
// can only go to a directory of this layer.
type place struct {
	dir  uint64 // inode
	name string
}

// Create makes the directory, which must not exist, and opens it as an empty
// root. What layers put there may be dangerous to run or look at (set-uid
// files, devices), so its parent should be private to root.
func Create(dir string, l Limits, log *slog.Logger) (*Root, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Root{
		fd: fd, dir: real, limits: l.Normal(), log: log,
		buf:    make([]byte, copyBufBytes),
		parent: dirRef{fd: -1},
	}, nil
}

// Close releases the root's descriptors; the files stay. It may be repeated.
func (r *Root) Close() error {
	r.forget()
	if r.fd < 0 {
		return nil
	}
	err := unix.Close(r.fd)
	r.fd = -1
	return err
}

// MountPoints creates the directories a guest mounts its kernel's file systems
// on, where the image has nothing of that name, as container runtimes do. What
// is there stays as it is.
func (r *Root) MountPoints() error {
	for _, m := range []struct {
		name string
		mode uint32
	}{{"proc", 0o755}, {"sys", 0o755}, {"dev", 0o755}, {"run", 0o755}, {"tmp", 0o1777}} {
		err := makeDir(r.fd, m.name, m.mode)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "mkdir", Path: m.name, Err: err}
		}
	}
	return nil
}

// Count returns how many entries and how many bytes of file content, holes
// included, archives have brought so far.
func (r *Root) Count() (entries int, fileBytes int64) { return r.entries, r.fileBytes }

func invalid(name, format string, args ...any) error {
	e := dayfly.Errorf(dayfly.Invalid, format, args...)
	e.Msg = quote(name) + ": " + e.Msg
	return e
}

func exceeded(name, limit string, is, bound any) error {
	return dayfly.Errorf(dayfly.Exhausted, "%s: limit exceeded: %s: %v, at most %v", quote(name), limit, is, bound)
}
