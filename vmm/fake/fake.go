// Package fake is a vmm.Driver for fast tests: its guests are Go functions in
// this process.
//
// It is held to the same suite as the real drivers, so that what a test of the
// code above sees of a machine (the channel, pausing, the ways to end, locked
// drives, refused configs) is what it would see of a virtual one. There is
// neither a kernel nor a process: PID is a number that no process has. An owner
// is a Driver, which Kill lets die as a process does: its orphans live on, for
// another Driver of this process to adopt.
package fake

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// Guest is what runs in a machine. Returning nil powers the machine off, and an
// error is a kernel panic with that text. It must return soon after ctx ends,
// which is when the machine has been closed or crashed.
type Guest func(ctx context.Context, in Inside) error

// Inside is a machine seen by its guest.
type Inside struct {
	Config  vmm.Config
	Port    net.Listener // the port's connections, one after another; the host's hang-up is io.EOF
	Console io.Writer
	RAM     []byte                                   // all of it that is saved and restored: a restored guest finds in it what its origin left
	Drive   func(i int) (vmm.Drive, error)           // drive i as it is now: Path holds all of it
	Limit   func(i int) (vmm.Limit, <-chan struct{}) // that of drive i, which the guest keeps to, until the channel is closed
	NICs    []io.ReadWriter                          // of the Config's NICs: each Read and Write is one frame, behind a header of vmm.TAPHeader bytes
}

// Driver makes machines of one kind of guest. It is a vmm.Driver.
type Driver struct {
	guest  Guest
	refuse func(vmm.Config) error
	lacks  vmm.Lacks

	mu     sync.Mutex
	killed bool
	owned  map[*machine]bool
}

var _ vmm.Driver = (*Driver)(nil)

// New makes a driver whose machines run guest. refuse, unless nil, is asked
// before every launch, which fails with its error.
func New(guest Guest, refuse func(vmm.Config) error) *Driver {
	return &Driver{guest: guest, refuse: refuse, lacks: vmm.Lacks{NICLimits: true}, owned: map[*machine]bool{}}
}

// NewRaw makes a driver like New's, whose machines have raw drives alone, and lose
// their channel when they are saved.
func NewRaw(guest Guest, refuse func(vmm.Config) error) *Driver {
	d := New(guest, refuse)
	d.lacks.Layers, d.lacks.LastingChannel = true, true
	return d
}

// Lacks says what its machines do without.
func (d *Driver) Lacks() vmm.Lacks { return d.lacks }

// Name is "fake".
func (*Driver) Name() string { return "fake" }

// Version is that of the contract held to.
func (*Driver) Version(context.Context) (string, error) { return "1", nil }

// pids counts up from Linux's highest possible process id (PID_MAX_LIMIT in
// include/linux/threads.h), so that a stray signal meets nobody.
var pids atomic.Int64

const pidMax = 4 << 20

// Launch starts the guest.
func (d *Driver) Launch(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	for _, drive := range c.Drives {
		if d.lacks.Layers && len(drive.Below) > 0 {
			return nil, noLayers()
		}
	}
	for i, n := range c.NICs {
		if !n.Limit.None() {
			return nil, dayfly.Errorf(dayfly.Unavailable, "network device %d has a limit, which this driver cannot keep", i)
		}
	}
	if d.refuse != nil {
		if err := d.refuse(c); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkState(c); err != nil {
		return nil, err
	}
	memory, err := reopen(c.Memory.File)
	if err != nil {
		return nil, err
	}
	c.Memory.File = memory
	drives, err := lockDrives(c.Drives)
	if err != nil {
		return nil, err
	}
	taps, err := openTAPs(c.NICs)
	if err != nil {
		unlockDrives(drives)
		return nil, err
	}
	ram, err := mapRAM(c)
	if err != nil {
		unlockDrives(drives)
		closeTAPs(taps)
		return nil, err
	}
	if c.Memory.Fill != nil {
		if err := c.Memory.Fill(ctx); err != nil {
			unlockDrives(drives)
			closeTAPs(taps)
			return nil, errors.Join(err, unix.Munmap(ram))
		}
	}
	v := &vm{
		taps:    taps,
		config:  c,
		ram:     ram,
		drives:  drives,
		pid:     int(pidMax + pids.Add(1)),
		port:    newPort(),
		console: vmm.NewTail(vmm.ConsoleBytes),
		done:    make(chan struct{}),
		limited: make(chan struct{}),
	}
	alive, end := context.WithCancelCause(context.Background())
	v.end = end
	if c.Orphan {
		v.list()
	}
	m, err := d.hold(v)
	go v.run(alive, d.guest, c)
	if err != nil {
		end(err)
		<-v.done
		return nil, err
	}
	return m, nil
}

// Crash makes the VMM of a machine of this package die.
func Crash(m vmm.Machine) error {
	f, ok := m.(*machine)
	if !ok {
		return errors.New("fake: not a machine of this package")
	}
	f.end(errCrash)
	return nil
}

var (
	errCrash  = errors.New("fake: the VMM was killed")
	errClosed = errors.New("fake: closed")
)

// vm is one guest, whoever owns it.
type vm struct {
	pid     int
	port    *port
	console *vmm.Tail
	config  vmm.Config
	ram     []byte
	taps    []*os.File
	end     context.CancelCauseFunc
	done    chan struct{}
	exit    vmm.Exit // valid once done is closed

	mu      sync.Mutex
	drives  []attached
	limited chan struct{} // closed when a drive's limit changes
	lifted  bool          // no limit holds any more
	owner   *machine
}

// run is the guest's whole life.
func (v *vm) run(ctx context.Context, guest Guest, c vmm.Config) {
	stop := context.AfterFunc(ctx, func() { v.port.shut(); v.lift() })
	err := guest(ctx, Inside{Config: c, Port: v.port, Console: v.console, RAM: v.ram, Drive: v.drive, Limit: v.limit, NICs: v.nics()})
	stop()
	v.port.shut()
	closeTAPs(v.taps)
	v.exit = v.why(context.Cause(ctx), err)
	v.mu.Lock()
	unlockDrives(v.drives)
	v.mu.Unlock()
	_ = unix.Munmap(v.ram)
	v.end(nil)
	v.unlist()
	close(v.done)
}

// why tells the host's doing, ended, from the guest's own.
func (v *vm) why(ended, guest error) vmm.Exit {
	switch {
	case errors.Is(ended, errClosed):
		return vmm.Exit{Cause: vmm.Closed}
	case ended != nil:
		return vmm.Exit{Cause: vmm.Crash, Err: ended}
	case guest != nil:
		_, _ = io.WriteString(v.console, "Kernel panic - not syncing: "+guest.Error()+"\n")
		return vmm.Exit{Cause: vmm.Panic, Err: guest}
	default:
		return vmm.Exit{Cause: vmm.PowerOff}
	}
}
