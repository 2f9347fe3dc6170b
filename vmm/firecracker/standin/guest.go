package standin

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// gate is what the guest's goroutines pass while the machine is not paused.
type gate struct {
	mu      sync.Mutex
	passing chan struct{} // closed while it is open
	isOpen  bool
}

func newGate(open bool) *gate {
	g := &gate{passing: make(chan struct{})}
	if open {
		g.open()
	}
	return g
}

func (g *gate) shut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.isOpen
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		g.isOpen = true
		close(g.passing)
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen {
		g.isOpen, g.passing = false, make(chan struct{})
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	passing := g.passing
	g.mu.Unlock()
	<-passing
}

// guest is what runs in the machine.
type guest struct {
	server *server
	gate   *gate
	ram    [][]byte
	vsock  net.Listener
	args   string
	cpus   int
	booted time.Time
	nics   []wire

	drivePaces []*pace

	mu     sync.Mutex
	drives []*os.File
	conns  map[net.Conn]bool
	seen   int // connections that have ended

	waiting chan net.Conn // connections for an Agent; nil: there is none
}

// Agent is a guest of a test's own: it serves the guest's connections. It does not
// return.
type Agent func(Inside)

// Inside is a machine as its Agent sees it.
type Inside struct{ g *guest }

// RAM is what of the memory lies below the devices. A restored machine's holds
// what its origin's did. The kernel is at 16 MiB.
func (i Inside) RAM() []byte { return i.g.ram[0] }

// Drive is the path of a drive.
func (i Inside) Drive(n int) string { return i.g.server.is.Drives[n].Path }

// Accept waits for the host's next connection. It is to be closed.
func (i Inside) Accept() net.Conn { return <-i.g.waiting }

// PowerOff ends the machine.
func (i Inside) PowerOff() { i.g.server.end(0) }

// closing is a connection whose end is waited for.
type closing struct {
	net.Conn
	end func()
}

func (c closing) Close() error {
	c.end()
	return c.Conn.Close()
}

// hand gives a connection to the agent, and waits until that has closed it.
func (g *guest) hand(c net.Conn) {
	over := make(chan struct{})
	g.waiting <- closing{c, sync.OnceFunc(func() { close(over) })}
	<-over
}

func newGuest(s *server, ram [][]byte, still bool) (*guest, error) {
	g := &guest{
		server: s, gate: newGate(!still), ram: ram, args: s.is.Args, cpus: s.is.CPUs,
		booted: time.Now(), conns: map[net.Conn]bool{},
	}
	for _, d := range s.is.Drives {
		f, err := d.open()
		if err != nil {
			return nil, err
		}
		g.drives = append(g.drives, f)
		g.drivePaces = append(g.drivePaces, newPace(d.Limit))
	}
	g.nics = s.wires(g.gate)
	if err := g.listenAgain(); err != nil {
		return nil, err
	}
	if s.is.Vsock == "" {
		return g, nil
	}
	l, err := listen(s.is.Vsock)
	if err != nil {
		return nil, fmt.Errorf("cannot create the vsock backend: %w", err)
	}
	g.vsock = l
	if s.agent != nil {
		g.waiting = make(chan net.Conn)
		go func() { s.agent(Inside{g}) }()
	}
	go g.accept()
	return g, nil
}

func (g *guest) setDrive(i int, f *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.drives[i].Close()
	g.drives[i] = f
}

// reset ends every vsock connection, as saving the machine does.
func (g *guest) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		_ = c.Close()
	}
}

func (g *guest) accept() {
	for {
		c, err := g.vsock.Accept()
		if err != nil {
			return
		}
		go g.connect(c)
	}
}

// connect is the handshake of one connection, and the guest behind it.
func (g *guest) connect(c net.Conn) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 32)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return
	}
	if string(line) != fmt.Sprintf("CONNECT %d\n", firecracker.AgentPort) {
		record(g.server.dir, fmt.Sprintf("vsock handshake %q", line))
		return
	}
	g.gate.pass() // a guest that stands still listens to nobody
	if _, err := fmt.Fprintf(c, "OK %d\n", 1<<30); err != nil {
		return
	}
	g.mu.Lock()
	g.conns[c] = true
	seen := g.seen
	g.mu.Unlock()
	if g.waiting != nil {
		g.hand(&gated{c, in, g.gate})
	} else {
		err = script.Serve(&gated{c, in, g.gate}, g, seen)
	}
	g.mu.Lock()
	delete(g.conns, c)
	g.seen++
	g.mu.Unlock()
	if errors.Is(err, script.ErrEnd) {
		g.server.end(0)
	}
}

// gated is a connection of the guest's that stands still with it.
type gated struct {
	net.Conn
	in   *bufio.Reader
	gate *gate
}

func (c *gated) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.gate.pass()
	return n, err
}

func (c *gated) Write(b []byte) (int, error) {
	c.gate.pass()
	return c.Conn.Write(b)
}

// Drive is the guest's own descriptor of a drive, which the script closes.
func (g *guest) Drive(i int) (script.Drive, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i < 0 || i >= len(g.drives) {
		return nil, fmt.Errorf("no drive %d", i)
	}
	// Firecracker counts what is read and what is written together.
	both := g.drivePaces[i].Traffic
	return script.Paced{Drive: left{g.drives[i]}, Read: both, Write: both}, nil
}

// left is a file that stays open.
type left struct{ *os.File }

func (left) Close() error { return nil }

func (g *guest) kept() []byte {
	last := g.ram[len(g.ram)-1]
	return last[len(last)-keptSize:]
}

// Keep puts a text into the RAM.
func (g *guest) Keep(text string) error {
	clear(g.kept())
	copy(g.kept(), text)
	return nil
}

// Kept is what Keep put there.
func (g *guest) Kept() (string, error) {
	text, _, _ := bytes.Cut(g.kept(), []byte{0})
	return string(text), nil
}

// Console writes to standard output, as the serial port does.
func (g *guest) Console(line string) error {
	_, err := fmt.Fprintln(g.server.stdout, line)
	if err != nil && strings.Contains(err.Error(), "resource temporarily unavailable") {
		err = nil // what does not fit is lost
	}
	return err
}

// CPUs is how many were asked for.
func (g *guest) CPUs() int { return g.cpus }

// Cmdline is what the kernel was booted with.
func (g *guest) Cmdline() string { return g.args }

// Uptime is the time since the machine began, here.
func (g *guest) Uptime() (time.Duration, error) { return time.Since(g.booted), nil }

// Reboot ends the machine, as the keyboard controller does.
func (g *guest) Reboot() error {
	if !strings.Contains(" "+g.args+" ", " reboot=k ") {
		record(g.server.dir, "the guest reboots in a way that ends no Firecracker: "+g.args)
	}
	return script.ErrEnd
}

// Panic leaves last words and reboots, which panic=-1 makes a kernel do.
func (g *guest) Panic() error {
	if !strings.Contains(" "+g.args+" ", " panic=-1 ") {
		record(g.server.dir, "the guest's kernel panics and stays: "+g.args)
	}
	_ = g.Console("Kernel panic - not syncing: asked to")
	return script.ErrEnd
}
