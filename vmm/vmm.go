// Package vmm is the contract between Dayfly and the programs that run virtual
// machines: one Machine is one guest in one VMM process.
//
// A machine's life:
//
//	Driver.Launch ──► running ◄──► paused ──► Save, RAM
//	     │               │            │          └──► Config.State, Memory of another
//	     │ error         │ guest ends, VMM dies, Close
//	     ▼               ▼            ▼
//	 nothing left      ended: Done is closed, Exit says why
//
// A machine with Config.Orphan outlives the process that launched it, however
// that ends, and the Detach of its owner. It has one owner at a time:
//
//	Launch ──► owned ── Detach, or the owner dies ──► alone ── Driver.Adopt ──► owned
//
// A driver leaves naming, keys, disks and what runs in the guest to its caller.
// Always true: Launch that fails leaves no process and no file; Close may be
// called at any time, in any state, more than once, and returns when the
// process is gone; nothing in a Config is secret, as all of it may appear on a
// command line. A driver passes vmmtest.Run.
package vmm

import (
	"context"
	"net"
	"os"

	"github.com/dayfly/dayfly"
)

// Config is everything a machine is made of. Paths are on the host.
type Config struct {
	ID        string       // appears on the command line, so that a sweep can find the process
	Dir       string       // an existing private directory for the driver's sockets; the caller removes it
	Accel     dayfly.Accel // KVM or TCG, never Auto
	CPUs      int
	MemoryMiB int
	Kernel    string   // an uncompressed x86-64 ELF kernel with a PVH entry
	Initramfs string   // a cpio archive
	Cmdline   []string // added to the driver's own kernel parameters
	Drives    []Drive  // /dev/vda, /dev/vdb, … in the guest
	NICs      []NIC    // none: the guest has no network device at all

	// Memory is what the guest's RAM begins as. The zero value: nothing.
	Memory Memory

	// State is what Save returned of a machine with the same Config but for ID,
	// Dir, Memory, the files of the drives, the TAPs of the NICs and all limits, by
	// a VMM of the same version. The machine then goes on from there, with Memory as
	// its RAM was. Kernel, Initramfs and Cmdline are what that one was booted with.
	// Empty: it boots.
	State []byte

	// Orphan lets the VMM outlive the process that launched it, for another one
	// to Adopt. Otherwise the kernel kills it with that process.
	Orphan bool

	// Spawner starts the VMM's process, and finds it again for Adopt. Nil: it is
	// a child like any other, with this process's rights.
	Spawner Spawner
}

// Drive is one virtio block device backed by files. Two running machines never
// share a writable one: Launch refuses that. A restored guest goes on believing
// in the size of the drive it was booted with, whatever the files have.
type Drive struct {
	Path     string // a raw file or device; with layers below it, a qcow2 file
	ReadOnly bool

	// Below are the layers that Path lies over, the uppermost first: qcow2
	// files, the last a raw one. Machines may share them; nobody writes them.
	Below []string

	Limit Limit // of its traffic: see Machine.LimitDrive
}

// Memory is a file of as many bytes as the machine has RAM. Machines whose RAM
// begins as the same file share the pages that none of them has written.
type Memory struct {
	File *os.File // nil: RAM begins as zeros

	// Shared makes the file the RAM itself: what the guest writes, goes there.
	// Otherwise the file is never written, and what the guest writes is its own.
	Shared bool

	// Fill, unless nil, writes the file of a restored machine, whose CPUs are let
	// go when it has returned nil: the VMM starts meanwhile. An error of it ends
	// the launch. Not with Shared.
	Fill func(context.Context) error
}

// Driver makes machines. Its methods may be called at the same time.
type Driver interface {
	// Name is a short word such as "qemu".
	Name() string

	// Version identifies the VMM build. An Unavailable error says that the VMM
	// is not there or too old, and how to get it.
	Version(ctx context.Context) (string, error)

	// Launch starts a VMM process and returns as soon as the guest's CPUs run.
	// Cancelling ctx ends a launch under way, but not a launched machine. The
	// error is Invalid for a Config that cannot work (see Config.Check),
	// Conflict for a drive that another machine has and one of the two writes, or
	// for a TAP that another one has, and Unavailable where the host lacks something.
	Launch(ctx context.Context, c Config) (Machine, error)

	// Adopt takes over a machine that was launched as an Orphan and is alone. Of
	// c it looks at ID, Dir, Accel, CPUs, MemoryMiB, Spawner, and at how many Drives there
	// are and which of them are ReadOnly: what is behind them the machine knows
	// (Machine.Drive). Its NICs and limits are what they were. No file outside of Dir
	// need be there any more. One that its last owner had paused is still paused;
	// one whose guest has ended meanwhile is a machine that is Done at once. The
	// error is NotFound where no such machine runs, Conflict where it has an owner,
	// and Unavailable where it does not answer: it runs on then, and stays alone.
	Adopt(ctx context.Context, c Config) (Machine, error)
}

// Machine is one guest. Its methods may be called at the same time.
type Machine interface {
	// PID is the VMM's process id on the host.
	PID() int

	// Channel opens the byte stream to the guest's agent (virtio port
	// PortName). It may be opened before the guest is up: what is written waits
	// there. One connection at a time; it may be closed and opened again. The
	// guest may miss the one and the other.
	Channel(ctx context.Context) (net.Conn, error)

	// Pause stops the guest's CPUs and Resume lets them go on. Both are
	// Conflict errors once the machine has ended and no-ops when repeated.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Save returns the state of the processors and devices; with what RAM
	// returns, it is all there is to restore. It is as secret as the guest. The
	// machine must be paused, and all its writes to drives are then in their
	// files, if not on the medium. It may go on afterwards.
	Save(ctx context.Context) ([]byte, error)

	// RAM is the guest's memory, to be read while the machine is paused. It is
	// good until the machine has ended.
	RAM(ctx context.Context) (*RAM, error)

	// PushLayer makes a new layer at path, which must not exist, that the
	// writable drive i writes to from now on; nobody writes the layers it had
	// until then any more. It may be called in either state. On error nothing is
	// at path.
	PushLayer(ctx context.Context, i int, path string) error

	// SetDrive puts the one file of d behind drive i, in place of another whose
	// content the guest has not kept. Read-only stays what it was.
	SetDrive(ctx context.Context, i int, d Drive) error

	// LimitDrive bounds the traffic of drive i from now on, in place of what
	// bounded it until then. It may be called in either state. It is not saved: a
	// restored machine has the limits of its Config.
	LimitDrive(ctx context.Context, i int, l Limit) error

	// Drive says what is behind drive i now, but for its limit, by the VMM's own word: a process
	// that dies in PushLayer may or may not have made a layer the uppermost.
	Drive(ctx context.Context, i int) (Drive, error)

	// Done is closed when the machine has ended.
	Done() <-chan struct{}

	// Exit says how the machine ended. It is valid once Done is closed.
	Exit() Exit

	// Console returns the last of what the guest wrote to its console, at most
	// ConsoleBytes. Once the machine was closed or crashed it is what had been
	// read until then. The guest is hostile: quote it before it goes anywhere.
	Console() []byte

	// Close kills the VMM and waits until it is gone. After Detach it does nothing.
	Close() error

	// Detach lets go of a machine that is an Orphan: its connections end, for us
	// it has ended (Detached), and it goes on alone. Of another machine it is an
	// Invalid error, and a Conflict if it has ended.
	Detach() error
}

// PortName is the virtio-serial port the agent listens on.
const PortName = "dayfly.agent"

// MaxState bounds what Save returns, in bytes; 16 kB are usual.
const MaxState = 16 << 20

// ConsoleBytes bounds what is kept of a guest's console output.
const ConsoleBytes = 64 << 10

// Exit is how a machine ended.
type Exit struct {
	Cause Cause
	Err   error // more about it, such as the VMM's exit status or last words
}

// Cause tells apart the ends a machine can come to.
type Cause string

// The ends of a machine.
const (
	Closed   Cause = "closed"   // Close was called
	PowerOff Cause = "poweroff" // the guest rebooted, which is how it shuts itself down
	Panic    Cause = "panic"    // the guest's kernel panicked
	Crash    Cause = "crash"    // the VMM process ended by itself or was killed
	Detached Cause = "detached" // Detach was called: it goes on without us
)
