package fake_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/fake"
	"github.com/dayfly/dayfly/vmm/vmmtest"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) { conform(t, fake.New) }

// TestConformanceOfRawDrives is the suite for machines that lack what not every
// VMM has.
func TestConformanceOfRawDrives(t *testing.T) { conform(t, fake.NewRaw) }

func conform(t *testing.T, newDriver func(fake.Guest, func(vmm.Config) error) *fake.Driver) {
	t.Helper()
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		s := vmmtest.Setup{
			FullLayers: true,
			Driver:     newDriver(run, nil), Accel: dayfly.TCG, Crash: fake.Crash,
			Kernel: filepath.Join(t.TempDir(), "kernel"), Initramfs: filepath.Join(t.TempDir(), "initramfs"),
		}
		for _, f := range []string{s.Kernel, s.Initramfs} {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return s
	})
}

var errPanic = errors.New("asked to")

// run serves the suite's conversation.
func run(_ context.Context, in fake.Inside) error {
	g := &inside{Inside: in, booted: time.Now(), paced: map[int]script.Paced{}}
	if err := g.listenAgain(); err != nil {
		return err
	}
	for hangUps := 0; ; hangUps++ {
		conn, err := in.Port.Accept()
		if err != nil {
			return nil // the host ended the machine
		}
		err = script.Serve(conn, g, hangUps)
		_ = conn.Close()
		if errors.Is(err, script.ErrEnd) {
			return g.end
		}
	}
}

type inside struct {
	fake.Inside
	booted time.Time
	end    error

	mu    sync.Mutex
	paced map[int]script.Paced
}

func (g *inside) Drive(i int) (script.Drive, error) {
	d, err := g.Inside.Drive(i)
	if err != nil {
		return nil, err
	}
	how := os.O_RDWR
	if d.ReadOnly {
		how = os.O_RDONLY
	}
	f, err := os.OpenFile(d.Path, how, 0)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.paced[i]
	if !ok {
		p.Read = g.traffic(i, func(l vmm.Limit) (int64, int64) { return l.ReadBytes, l.ReadOps })
		p.Write = g.traffic(i, func(l vmm.Limit) (int64, int64) { return l.WriteBytes, l.WriteOps })
		g.paced[i] = p
	}
	p.Drive = f
	return p, nil
}

// traffic keeps to what the driver says of one direction of a drive.
func (g *inside) traffic(i int, of func(vmm.Limit) (bytes, ops int64)) script.Traffic {
	pacer := func(which func(bytes, ops int64) int64) *script.Pacer {
		return &script.Pacer{Rate: func() (script.Rate, <-chan struct{}) {
			l, changed := g.Limit(i)
			return script.Rate{PerSecond: float64(which(of(l))), Burst: max(vmm.LeastBurst, l.Burst)}, changed
		}}
	}
	return script.Traffic{
		Bytes: pacer(func(bytes, _ int64) int64 { return bytes }),
		Ops:   pacer(func(_, ops int64) int64 { return ops }),
	}
}

func (g *inside) Keep(text string) error {
	clear(g.RAM[:vmm.PageSize])
	copy(g.RAM, text)
	return nil
}

func (g *inside) Kept() (string, error) {
	text, _, _ := strings.Cut(string(g.RAM[:vmm.PageSize]), "\x00")
	return text, nil
}

// Listen goes on in a restored guest, as its program does: what it was told is in
// the RAM.
func (g *inside) Listen(mac string) error {
	addr, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	for i, n := range g.Config.NICs {
		if n.MAC == mac {
			g.RAM[vmm.PageSize+i] = 1
			go script.Echo(g.NICs[i], addr, vmm.TAPHeader)
			return nil
		}
	}
	return errors.New("no such network device")
}

// listenAgain is what a restored guest does.
func (g *inside) listenAgain() error {
	for i, n := range g.Config.NICs {
		if g.RAM[vmm.PageSize+i] == 1 {
			if err := g.Listen(n.MAC); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *inside) Console(line string) error {
	_, err := io.WriteString(g.Inside.Console, line+"\n")
	return err
}

func (g *inside) CPUs() int                      { return g.Config.CPUs }
func (g *inside) Cmdline() string                { return strings.Join(g.Config.Cmdline, " ") }
func (g *inside) Uptime() (time.Duration, error) { return time.Since(g.booted), nil }
func (g *inside) Reboot() error                  { return script.ErrEnd }
func (g *inside) Panic() error                   { g.end = errPanic; return script.ErrEnd }

// TestMachineOutlivesTheKilledDriver: an orphan goes on, another machine ends,
// and nothing of the driver works any more.
func TestMachineOutlivesTheKilledDriver(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "boot")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := fake.New(run, nil)
	launch := func(orphan bool) (vmm.Machine, vmm.Config) {
		c := vmm.Config{
			ID: "m", Dir: t.TempDir(), Accel: dayfly.TCG, CPUs: 1, MemoryMiB: dayfly.MinMemoryMiB,
			Kernel: file, Initramfs: file, Orphan: orphan,
		}
		m, err := d.Launch(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return m, c
	}
	orphan, c := launch(true)
	child, _ := launch(false)
	conn, err := orphan.Channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Kill()
	select {
	case <-orphan.Done():
		t.Error("the dead are told of the end of a machine")
	default:
	}
	if err := child.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, os.ErrClosed) && !strings.Contains(err.Error(), "closed") {
		t.Errorf("reading of a dead process's connection: %v", err)
	}
	if err := orphan.Resume(t.Context()); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("a dead process resumes a machine: %v", err)
	}
	if _, err := d.Adopt(t.Context(), c); err == nil {
		t.Error("a dead process adopts a machine")
	}
	m, err := fake.New(run, nil).Adopt(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := fake.Orphans(t.Context(), c.Dir); err != nil || len(pids) != 1 || pids[0] != m.PID() {
		t.Errorf("Orphans = %v, %v", pids, err)
	}
	if err := fake.KillOrphans(t.Context(), filepath.Dir(c.Dir)); err != nil {
		t.Error(err)
	}
	<-m.Done()
	if err := orphan.Close(); err != nil {
		t.Error(err)
	}
}
