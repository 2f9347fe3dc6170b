package node

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
)

// limiting is a driver that notes which limits the drives of its machines have.
type limiting struct {
	vmm.Driver
	lacks vmm.Lacks

	mu     sync.Mutex
	limits map[int]vmm.Limit // of the machine that came last
}

func (d *limiting) Lacks() vmm.Lacks { return d.lacks }

func (d *limiting) Launch(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	m, err := d.Driver.Launch(ctx, c)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limits = map[int]vmm.Limit{}
	return &limited{m, d}, nil
}

type limited struct {
	vmm.Machine
	d *limiting
}

func (m *limited) LimitDrive(ctx context.Context, i int, l vmm.Limit) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	m.d.limits[i] = l
	return m.Machine.LimitDrive(ctx, i, l)
}

func (d *limiting) want(t *testing.T, want map[int]vmm.Limit) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !maps.Equal(d.limits, want) {
		t.Errorf("limits are %+v, want %+v", d.limits, want)
	}
}

// TestDisksAreBoundedWithoutAJail starts a workspace, and a copy of it.
func TestDisksAreBoundedWithoutAJail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := w.reboot()
	d := &limiting{Driver: base, lacks: base.Lacks()}
	w.driver = d
	c, err := w.config()
	if err != nil {
		t.Fatal(err)
	}
	c.IO = IO{Read: 3 << 20, Write: 1 << 20}
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	disk := map[int]vmm.Limit{writable: {ReadBytes: 3 << 20, WriteBytes: 1 << 20}}
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	d.want(t, disk)
	if _, err := n.Fork(t.Context(), ws.ID, 1); err != nil {
		t.Fatal(err)
	}
	d.want(t, disk)
}

// TestJailBoundsWhatAVMMWouldBoundWorse is about one that bounds both directions
// together.
func TestJailBoundsWhatAVMMWouldBoundWorse(t *testing.T) {
	t.Parallel()
	needs.Jail(t)
	w := newWorld(t)
	base := w.reboot()
	dir := filepath.Join(t.TempDir(), "node-io-"+strconv.Itoa(os.Getpid()))
	block, err := cell.Open(t.Context(), jail.Options{Dir: dir, UIDs: jail.Range{First: 742100, Count: 16}, Cgroup: filepath.Base(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := block.Close(); err != nil {
			t.Error(err)
		}
	})
	lacking := base.Lacks()
	lacking.LimitsByDirection = true
	for _, c := range []struct {
		what   string
		cells  *cell.Block
		lacks  vmm.Lacks
		limits bool
	}{
		{"by direction, in no jail", nil, base.Lacks(), true},
		{"by direction, in a jail", block, base.Lacks(), true},
		{"together, in no jail", nil, lacking, true},
		{"together, in a jail", block, lacking, block.Traffic(w.dir) != jail.AllTraffic},
	} {
		d := &limiting{Driver: base, lacks: c.lacks, limits: map[int]vmm.Limit{}}
		n := &Node{Config: Config{Dir: w.dir, IO: IO{Write: 1}}, cells: c.cells}
		m := &limited{bounded{}, d}
		if err := n.boundDisk(t.Context(), m, d); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := len(d.limits) == 1; got != c.limits {
			t.Errorf("%s: bounded by the VMM is %v", c.what, got)
		}
	}
}

// bounded is a machine of which nothing else is wanted.
type bounded struct{ vmm.Machine }

func (bounded) LimitDrive(context.Context, int, vmm.Limit) error { return nil }
