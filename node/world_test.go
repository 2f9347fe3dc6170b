package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/test/blackout"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/fake"
	"github.com/dayfly/dayfly/vmm/firecracker/standin"
)

var errBoom = errors.New("boom")

// world is a node's surroundings: everything but the machine and the images is
// real, and each part can be made to fail.
type world struct {
	dir    string
	init   func(wire.Init) (wire.InitReply, int)
	silent bool // the agent never says hello
	driver vmm.Driver

	outlive    bool                   // the next node's
	mergeAbove int                    // the next node's
	changed    func(dayfly.Workspace) // the next node's

	hook atomic.Pointer[func(context.Context, point) error]

	version  atomic.Pointer[string]            // of the VMM
	withhold atomic.Pointer[string]            // a confirmation that the agent keeps to itself
	heard    atomic.Pointer[func(path string)] // told of what an agent has done, before it answers

	mu       sync.Mutex
	boom     map[string]int         // parts that fail, and how often; below 0: always
	machines []vmm.Machine          // all there ever were
	latest   map[string]vmm.Machine // by id
	sins     []string               // what must never happen
}

// newWorld has a template already, as making one takes longer than a test.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := newWorldIn(t, t.TempDir())
	from := theWorld()
	for _, sub := range []string{"templates", "seeds"} {
		if err := linkTree(filepath.Join(from, sub), filepath.Join(w.dir, sub)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(to, strings.TrimPrefix(path, from))
		if e.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		return os.Link(path, to)
	})
}

// theWorld is the directory of one in which the template was made that starts of
// spec begin as. Programs are run for that, so it is done once: a child between
// fork and exec holds all locks of this process.
var theWorld = sync.OnceValue(func() string {
	if err := os.Mkdir(filepath.Join(shared, "world"), 0o700); err != nil {
		panic(err)
	}
	w := emptyWorld(filepath.Join(shared, "world"))
	c, err := w.config()
	if err != nil {
		panic(err)
	}
	n, err := Open(context.Background(), c)
	if err != nil {
		panic(err)
	}
	if _, err := n.Create(context.Background(), spec); err != nil {
		panic(err)
	}
	if err := errors.Join(n.Close(), os.RemoveAll(filepath.Join(w.dir, "templates", "wanted"))); err != nil {
		panic(err)
	}
	return w.dir
})

// shared is a directory of all tests of this process.
var shared string

func TestMain(m *testing.M) {
	jail.Enter()
	blackout.Enter()
	standin.MainWith(agentInside)
	var err error
	if shared, err = os.MkdirTemp("", "node-"); err != nil {
		panic(err)
	}
	if err := flag.Set("rapid.checks", "12"); err != nil { // by default: what the command line says goes
		panic(err)
	}
	goleak.VerifyTestMain(twice{m}, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(shared)
		os.Exit(code)
	}))
}

// newDriver makes the drivers of all worlds.
var newDriver = fake.New

// layersAreThere reports whether their machines have layers of disks.
func layersAreThere() bool { return !vmm.LacksOf(newDriver(nil, nil)).Layers }

// twice runs every test with a VMM that has layers of disks, and once more with
// one that has raw drives alone and whose channel ends when a machine is saved:
// what is promised of workspaces is promised with both.
type twice struct{ *testing.M }

// rawDrives is a variable that has a test, and the processes it starts, run with
// the second kind alone.
const rawDrives = "DAYFLY_TEST_RAW_DRIVES"

func (m twice) Run() int {
	layered := 0
	if os.Getenv(rawDrives) == "" {
		if layered = m.M.Run(); os.Getenv(deathNote) != "" {
			return layered // a process that was to die, and lives
		}
		fmt.Println("=== once more, with raw drives")
		if err := os.Setenv(rawDrives, "1"); err != nil {
			panic(err)
		}
	}
	newDriver = fake.NewRaw
	return max(layered, m.M.Run())
}

// newWorldIn is an empty one.
func newWorldIn(t *testing.T, dir string) *world {
	t.Helper()
	w := emptyWorld(dir)
	t.Cleanup(func() { // after every node's
		if left := w.running(); left > 0 {
			t.Errorf("%d machines run after Close", left)
		}
		if left, err := fake.Orphans(context.Background(), w.dir); err != nil || len(left) > 0 {
			t.Errorf("machines that nobody owns: %v, %v", left, errors.Join(err, fake.KillOrphans(context.Background(), w.dir)))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, sin := range w.sins {
			t.Error(sin)
		}
	})
	return w
}

func emptyWorld(dir string) *world {
	w := &world{dir: dir, boom: map[string]int{}, latest: map[string]vmm.Machine{}}
	w.init = func(wire.Init) (wire.InitReply, int) { return wire.InitReply{Kernel: "6.0-fake"}, http.StatusOK }
	w.reboot()
	if err := os.WriteFile(filepath.Join(w.dir, "rootfs"), []byte("root"), 0o600); err != nil {
		panic(err)
	}
	return w
}

// reboot gives the next node a driver of its own, as another process has.
func (w *world) reboot() *driver {
	d := &driver{newDriver(w.guest, w.mayLaunch), w}
	w.driver = d
	return d
}

// breaks makes a part fail so many times.
func (w *world) breaks(part string, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boom[part] = times
}

func (w *world) fails(part string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.boom[part] == 0 {
		return nil
	}
	w.boom[part]--
	return errBoom
}

func (w *world) sin(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sins = append(w.sins, fmt.Sprintf(format, args...))
}

// running counts the machines that have not ended.
func (w *world) running() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.machines {
		select {
		case <-m.Done():
		default:
			n++
		}
	}
	return n
}

// driver is the fake one, whose machines can be made to fail.
type driver struct {
	*fake.Driver
	w *world
}

func (d *driver) Version(context.Context) (string, error) {
	if v := d.w.version.Load(); v != nil {
		return *v, d.w.fails("version")
	}
	return "1", d.w.fails("version")
}

func (d *driver) Launch(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	m, err := d.Driver.Launch(ctx, c)
	if err != nil {
		return nil, err
	}
	return d.w.known(m, c.ID), nil
}

func (d *driver) Adopt(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if err := d.w.fails("adopt"); err != nil {
		return nil, err
	}
	m, err := d.Driver.Adopt(ctx, c)
	if err != nil {
		return nil, err
	}
	return d.w.known(m, c.ID), nil
}

func (w *world) known(m vmm.Machine, id string) *machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.machines = append(w.machines, m)
	w.latest[id] = m
	return &machine{m, w}
}

// diskBytes is what the disks of these tests have: layers of the fake driver
// hold all of their drive.
const diskBytes = 64 << 10

// mayLaunch holds every launch to what must always be true of it.
func (w *world) mayLaunch(c vmm.Config) error {
	for _, d := range c.Drives {
		if !d.ReadOnly && links(d.Path) > 1 {
			w.sin("%s is to be written, which has another link", d.Path)
		}
		if filepath.Base(d.Path) == diskFile {
			if err := os.Truncate(d.Path, diskBytes); err != nil {
				return err
			}
		}
	}
	return w.fails("launch")
}

func links(path string) uint64 {
	st, _ := status(path)
	return st.Nlink
}

func status(path string) (st syscall.Stat_t, err error) {
	err = syscall.Lstat(path, &st)
	return st, err
}

// machine is a fake one.
type machine struct {
	vmm.Machine
	w *world
}

func (m *machine) Pause(ctx context.Context) error {
	return errors.Join(m.w.fails("pause"), m.Machine.Pause(ctx))
}

func (m *machine) Resume(ctx context.Context) error {
	if err := m.w.fails("resume"); err != nil {
		return err
	}
	return m.Machine.Resume(ctx)
}

func (m *machine) Save(ctx context.Context) ([]byte, error) {
	if err := m.w.fails("save"); err != nil {
		return nil, err
	}
	return m.Machine.Save(ctx)
}

func (m *machine) RAM(ctx context.Context) (*vmm.RAM, error) {
	if err := m.w.fails("ram"); err != nil {
		return nil, err
	}
	return m.Machine.RAM(ctx)
}

func (m *machine) PushLayer(ctx context.Context, i int, path string) error {
	if err := m.w.fails("push"); err != nil {
		return err
	}
	return m.Machine.PushLayer(ctx, i, path)
}

func (m *machine) Merge(ctx context.Context, i int, speed int64) error {
	d, err := m.Drive(ctx, writable)
	if err != nil {
		return err
	}
	return m.w.around(ctx, point{table: "merge", row: "merge", dir: filepath.Dir(d.Path)}, func() error {
		if err := m.w.fails("merge"); err != nil {
			return err
		}
		return m.Machine.(vmm.Merger).Merge(ctx, i, speed) //nolint:forcetypeassert // the fake one's are
	})
}

func (w *world) Lease(_ context.Context, name string) (*image.Lease, error) {
	if name == "missing" {
		return nil, dayfly.Errorf(dayfly.NotFound, "there is no image missing")
	}
	digest := "sha256:" + strings.TrimPrefix(name, "sha256:")
	return &image.Lease{Image: dayfly.Image{Name: name, Digest: digest}, Path: filepath.Join(w.dir, "rootfs")}, w.fails("image")
}

func (w *world) Boot(context.Context, string) (kernel.Boot, error) {
	return kernel.Boot{Kernel: dayfly.Kernel{ID: "k"}, Vmlinux: filepath.Join(w.dir, "rootfs"), Initramfs: filepath.Join(w.dir, "rootfs")}, w.fails("kernel")
}

// keys is a ring that can fail.
type keys struct {
	*keyring.Ring
	w *world
}

func (k keys) Create(ctx context.Context, path, name string) (*keyring.Key, error) {
	if err := k.w.fails("create key"); err != nil {
		return nil, err
	}
	return k.Ring.Create(ctx, path, name)
}

func (k keys) Load(ctx context.Context, path, name string) (*keyring.Key, error) {
	if err := k.w.fails("load key"); err != nil {
		return nil, err
	}
	return k.Ring.Load(ctx, path, name)
}

func (k keys) Adopt(ctx context.Context, path, name string, key *keyring.Key) error {
	if err := k.w.fails("adopt key"); err != nil {
		return err
	}
	return k.w.around(ctx, point{table: "adopt key", row: "adopt key"}, func() error { return k.Ring.Adopt(ctx, path, name, key) })
}

func (k keys) Forget(path string) error {
	return k.w.around(context.Background(), point{table: "forget key", row: "forget key"}, func() error { return k.Ring.Forget(path) })
}

// config is what a node of this world is made of.
func (w *world) config() (Config, error) {
	ring, err := keyring.Open(w.dir)
	return Config{
		Dir: w.dir, Images: w, Kernels: w, Keys: keys{ring, w}, Driver: w.driver, Log: slog.New(slog.DiscardHandler),
		KillOrphans: fake.KillOrphans, Orphans: fake.Orphans, Outlive: w.outlive, Changed: w.changed, MergeAbove: w.mergeAbove,
	}, err
}

func (w *world) open(t *testing.T) *Node {
	t.Helper()
	c, err := w.config()
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// node is open with a Close at the end that must leave nothing.
func (w *world) node(t *testing.T) *Node {
	t.Helper()
	n := w.open(t)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return n
}

// spec restores the template that every world has.
var spec = dayfly.Spec{Image: "base", DiskMiB: 64, MemoryMiB: dayfly.MinMemoryMiB, Accel: dayfly.TCG, Env: map[string]string{"A": "b"}}

// another is spec with an image that nobody has started yet, for which nothing
// is prepared.
func another() dayfly.Spec {
	s := spec
	s.Image = string(dayfly.NewID())
	return s
}

// left lists what is below the directories of workspaces, snapshots and locks.
func (w *world) left(t *testing.T) []string {
	t.Helper()
	all, err := w.entries()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (w *world) entries() (all []string, err error) {
	for _, sub := range []string{"workspaces", "snapshots", "locks"} {
		ents, err := os.ReadDir(filepath.Join(w.dir, sub))
		if err != nil {
			return nil, err
		}
		for _, e := range ents {
			all = append(all, sub+"/"+e.Name())
		}
	}
	return all, nil
}
