// Package jail is the box that a VMM process lives in, so that a guest that
// takes its VMM over has gained next to nothing.
//
//	Open ──► Pool ──► Prepare: a few jails wait, each with its first process
//	          │
//	          └─ Take ──► Jail ── Start ──► Process (the VMM itself, pid 1 of its namespace)
//	                       │                   │
//	                       └────── Close ◄─────┘   nothing of it is left
//
// A jail has a user of its own, new mount, pid, ipc, uts, network and cgroup
// namespaces, a read-only root that holds a program with its libraries and what
// else a Spec names, no capabilities, a seccomp filter, and limits where the
// host has control groups. It is set up by its first process, which is this
// very program under another name (see Enter), and which then becomes the VMM.
//
// What runs in it, and whose files it gets, is the caller's. Always true: a
// jail is used once; Start that fails leaves no process; Close may be called at
// any time, more than once; whatever a killed owner leaves is gone after Sweep,
// but for orphans that still run, which keep their user.
package jail

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/dayfly/dayfly"
)

// DefaultDir is where the users that jails have are kept account of. It is one
// for the whole host, however many state directories there are: two jails of
// one user could reach each other.
const DefaultDir = "/run/dayfly/jail"

// defaultGroup is the control group that those of jails lie in.
const defaultGroup = "dayfly"

// Range is a range of user ids, each also that of a group. Nobody else on the
// host may have one of them.
type Range struct{ First, Count int }

// DefaultRange is above what people, services and containers are usually given.
var DefaultRange = Range{First: 800000, Count: 65536}

// Options are how a Pool is opened. The zero value is good.
type Options struct {
	Dir    string       // "" is DefaultDir; it must be ours alone
	UIDs   Range        // zero is DefaultRange
	Cgroup string       // the name of the control group that those of the jails lie in; "" is "dayfly"
	Self   string       // the program that begins jails by calling Enter; "" is the running one
	Log    *slog.Logger // nil discards
}

// Shape is what of a jail is set up ahead of its use.
type Shape struct {
	Program string   // an ELF program's absolute path; it and its libraries are there, read-only
	Data    []string // files and directories that are there at the same path, read-only; what the host lacks is left out
	KVM     bool     // /dev/kvm is there
}

// Spec is a jail to take.
type Spec struct {
	Shape

	Files  []File
	Limits Limits

	// Room is a directory of the jail's own that its user may make sockets and a
	// few small files in: it is in memory, and goes with the jail. "": there is
	// none. Whoever looks into it from outside does so by Look.
	Room string

	// Places are where Bring may put files while the process runs.
	Places []string

	// Network is a network namespace to live in, in place of an empty one of the
	// jail's own. The process has /dev/net/tun then, and may open by its name each
	// TAP device there that is its user's (see UID), or that has no user at all. Of
	// the other devices it can read what they are, and use none. It may not be
	// this process's own. Nil: an interface that is down.
	Network *os.File
}

// File is a file or directory of the host that is in the jail. Nothing in it can
// be run.
type File struct {
	Path  string // absolute, and no symbolic link
	To    string // where it is in the jail; "": at the same path
	Write bool

	// Own lets the jail's user do what root may, with a file that is root's and
	// nobody else's to read or write. On the disk it stays root's, where the file
	// system can map users (Linux 5.12 for ext4 and XFS, 5.15 for Btrfs, 6.3 for
	// tmpfs). Elsewhere it is given away until Close, if it is to be written and
	// has one hard link, or the error is Unavailable.
	Own bool
}

// Limits bound what a jail may use. Zero is no limit. Those of control groups
// hold only where the host has the controller: see Pool.Lacks.
type Limits struct {
	CPUs      float64 // processors, or a fraction of one
	Memory    int64   // bytes, the VMM's own included; whoever needs more is killed alone
	Processes int     // threads, in all
	IO        []IO

	FileSize  int64 // bytes that a file may grow to
	OpenFiles int   // descriptors; zero is DefaultOpenFiles
}

// DefaultOpenFiles is enough for a VMM with drives and sockets.
const DefaultOpenFiles = 256

// DefaultProcesses bounds the threads of a jail that names no limit.
const DefaultProcesses = 256

// IO bounds the traffic with the device that the file system of Path is on, by
// second. Zero is no limit.
type IO struct {
	Path                  string
	ReadBytes, WriteBytes int64
	ReadOps, WriteOps     int64
}

// same reports whether a jail of one shape serves for the other.
func (s Shape) same(o Shape) bool {
	return s.Program == o.Program && s.KVM == o.KVM && slices.Equal(s.Data, o.Data)
}

// check refuses what can never work.
func (s Spec) check() error {
	if s.KVM {
		if _, err := os.Stat("/dev/kvm"); err != nil {
			return dayfly.Errorf(dayfly.Unavailable, "jail: there is no /dev/kvm on this host: use --accel tcg")
		}
	}
	for _, path := range append([]string{s.Program}, s.Data...) {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	for _, f := range s.Files {
		if err := f.check(); err != nil {
			return err
		}
	}
	if err := s.checkNetwork(); err != nil {
		return err
	}
	return s.checkInside()
}

func (f File) check() error {
	if err := checkPath(f.Path); err != nil {
		return err
	}
	for _, ours := range []string{"/proc", "/dev"} {
		if within(f.Path, ours) {
			return dayfly.Errorf(dayfly.Invalid, "jail: %s: files of the host's %s have no place in a jail", f.Path, ours)
		}
	}
	return nil
}

// to is where the file is in the jail.
func (f File) to() string {
	if f.To == "" {
		return f.Path
	}
	return f.To
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return dayfly.Errorf(dayfly.Invalid, "jail: %q: paths are absolute, clean, and not the root", path)
	}
	return nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
