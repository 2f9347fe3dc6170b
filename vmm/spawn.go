package vmm

import (
	"context"
	"os"

	"github.com/dayfly/dayfly"
)

// Spawner starts the processes of machines for their drivers, and decides what
// they live in: a jail, say. Its methods may be called at the same time.
type Spawner interface {
	// Spawn starts a process. It returns when the VMM's program has begun,
	// or leaves nothing behind.
	Spawn(ctx context.Context, c Command) (Process, error)

	// Adopt finds the process of an orphan that it, or another of its kind,
	// spawned. The error is NotFound for a process that is none of theirs, and
	// Conflict for one that has an owner: a driver takes neither for the other.
	Adopt(pid int) (Process, error)
}

// Command is the process of a machine.
type Command struct {
	Program

	Args  []string   // all of them, the name the program is called by first
	Env   []string   // all of it
	Dir   string     // "": any
	Out   *os.File   // standard output; nil is /dev/null
	Err   *os.File   // standard error; nil is /dev/null
	Files []*os.File // descriptors 3 and up

	// Reopened is a descriptor that the program opens again, by /proc/self/fd. 0:
	// there is none.
	Reopened int

	// TAPs are the names of the TAP devices that the program has (see NIC). It gets
	// each as an open descriptor, those behind Files, unless it NamesTAPs: then it
	// opens /dev/net/tun itself and asks for the name, in a network namespace that
	// has these TAPs and is not this process's.
	TAPs      []string
	NamesTAPs bool

	Paths  []Path // what the program opens by name
	Orphan bool   // it outlives this process; otherwise it dies with it

	// Room is a directory that the program makes its sockets in, and Places are
	// where files may be brought to while it runs. The process of a command with
	// either is Furnished.
	Room   string
	Places []string
}

// Program is what the processes of all machines of one kind have in common.
type Program struct {
	Path string   // absolute; the program needs its libraries, too
	Data []string // files and directories that it reads, where there are such
	KVM  bool
}

// Path is a file, or a directory, of a machine's own.
type Path struct {
	Name  string // absolute
	As    string // what the program calls it; "": the same
	Write bool
}

// Process is one that a Spawner has started. Its methods may be called at the
// same time.
type Process interface {
	PID() int

	// Done is closed when the process is gone, and all that it lived in.
	Done() <-chan struct{}

	// Err says how it ended; nil: well, as far as is known. It is valid once Done
	// is closed.
	Err() error

	// State is its exit status, where that is known. It is valid once Done is
	// closed.
	State() *os.ProcessState

	// Kill sends SIGKILL.
	Kill()

	// Leave lets go of an orphan, which goes on: Done is never closed then. Of
	// what has ended there is nothing to let go of.
	Leave()
}

// Furnished is a Process that does not see our files, but can be shown some
// while it runs. What Look opens, in the Room, is of the making of a process that
// may be hostile.
type Furnished interface {
	Process

	// Bring shows a file to the process, as p.As, which is one of the Places that
	// nothing is at.
	Bring(p Path) error

	// Shift moves what is at one place to another, in place of what is there.
	Shift(from, to string) error

	// Drop takes away what is at a place, if there is something. A process that
	// has it open keeps it.
	Drop(at string) error

	// Look opens a file or directory of the process's by O_PATH, and follows no
	// symbolic link.
	Look(name string) (*os.File, error)
}

// Programmed is a driver that knows its program before there is a machine, so
// that what machines live in can be made ready ahead.
type Programmed interface {
	// Program is what machines of that kind, KVM or TCG, are processes of.
	Program(accel dayfly.Accel) (Program, error)
}
