// Package vmm is the contract between Dayfly and the programs that run virtual
// machines: one Machine is one guest in one VMM process.
//
// A machine's life:
//
//	Driver.Launch ──► running ◄──► paused
//	     │               │            │
//	     │ error         │ guest ends, VMM dies, Close
//	     ▼               ▼            ▼
//	 nothing left      ended: Done is closed, Exit says why
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

	// Orphan lets the VMM outlive the process that launched it. Otherwise the
	// kernel kills it with that process.
	Orphan bool
}

// Drive is one virtio block device backed by a raw file or device. Two running
// machines never share a writable one: Launch refuses that.
type Drive struct {
	Path     string
	ReadOnly bool
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
	// Conflict for a drive that another machine has and one of the two writes,
	// and Unavailable where the host lacks something.
	Launch(ctx context.Context, c Config) (Machine, error)
}

// Machine is one guest. Its methods may be called at the same time.
type Machine interface {
	// PID is the VMM's process id on the host.
	PID() int

	// Channel opens the byte stream to the guest's agent (virtio port
	// PortName). It may be opened before the guest is up: what is written waits
	// there. One connection at a time; closing it is seen by the guest as a
	// hang-up, and it may be opened again, which may take a second so that the
	// guest sees the one before the other.
	Channel(ctx context.Context) (net.Conn, error)

	// Pause stops the guest's CPUs and Resume lets them go on. Both are
	// Conflict errors once the machine has ended and no-ops when repeated.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Done is closed when the machine has ended.
	Done() <-chan struct{}

	// Exit says how the machine ended. It is valid once Done is closed.
	Exit() Exit

	// Console returns the last of what the guest wrote to its console, at most
	// ConsoleBytes. Once the machine was closed or crashed it is what had been
	// read until then. The guest is hostile: quote it before it goes anywhere.
	Console() []byte

	// Close kills the VMM and waits until it is gone.
	Close() error
}

// PortName is the virtio-serial port the agent listens on.
const PortName = "dayfly.agent"

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
)
