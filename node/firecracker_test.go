package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/boot"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/firecracker/standin"
)

// agentInside serves the agent of these tests in a stand-in for Firecracker: in
// another process, whose world is an empty one.
func agentInside(in standin.Inside) {
	w := &world{boom: map[string]int{}}
	w.init = func(wire.Init) (wire.InitReply, int) { return wire.InitReply{Kernel: "6.0-stand-in"}, http.StatusOK }
	g := &inside{w: w, off: make(chan struct{}, 1)}
	g.RAM = in.RAM()
	g.Drive = func(i int) (vmm.Drive, error) { return vmm.Drive{Path: in.Drive(i)}, nil }
	sessions := boot.NewSessions(g.mux())
	go func() {
		<-g.off
		in.PowerOff()
	}()
	for {
		_ = sessions.Serve(in.Accept(), func() wire.Hello { return wire.Hello{Dayfly: wire.ProtocolVersion} })
	}
}

// emulated is Firecracker's driver with a stand-in, which needs no KVM: to node it
// is one that emulates.
type emulated struct {
	*firecracker.Driver
	files []vmm.Path // what the stand-in has beside itself
}

func (d emulated) Lacks() vmm.Lacks {
	l := d.Driver.Lacks()
	l.Emulation = false
	return l
}

func (d emulated) Program(dayfly.Accel) (vmm.Program, error) { return d.Driver.Program(dayfly.TCG) }

func (d emulated) Launch(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	c.Accel = dayfly.KVM
	if c.Spawner != nil {
		c.Spawner = besides{c.Spawner, d.files}
	}
	return d.Driver.Launch(ctx, c)
}

// besides is a Spawner that brings files more.
type besides struct {
	vmm.Spawner
	files []vmm.Path
}

func (b besides) Spawn(ctx context.Context, c vmm.Command) (vmm.Process, error) {
	c.KVM = false
	c.Paths = append(c.Paths, b.files...)
	return b.Spawner.Spawn(ctx, c)
}

// booting is a kernel that the stand-in takes.
type booting kernel.Boot

func (b booting) Boot(context.Context, string) (kernel.Boot, error) { return kernel.Boot(b), nil }

// TestFirecrackersWorkspaceLivesItsLife goes through all that a workspace can, with
// a stand-in for Firecracker, in a jail and without.
func TestFirecrackersWorkspaceLivesItsLife(t *testing.T) { //nolint:paralleltest // templates are made by programs
	for _, jailed := range []bool{true, false} {
		t.Run(fmt.Sprintf("jailed=%v", jailed), func(t *testing.T) { //nolint:paralleltest // likewise
			if jailed {
				needs.Jail(t)
			}
			w := newWorldIn(t, t.TempDir())
			w.outlive = true
			program := standin.Install(t, standin.Faults{})
			d := emulated{Driver: firecracker.New(firecracker.Options{Binary: program})}
			for _, name := range standin.Files(t, program) {
				d.files = append(d.files, vmm.Path{Name: name, Write: true})
			}
			w.driver = d
			c, err := w.config()
			if err != nil {
				t.Fatal(err)
			}
			c.Kernels = booting{Kernel: dayfly.Kernel{ID: "k"}, Vmlinux: standin.Kernel(t), Initramfs: filepath.Join(w.dir, "rootfs")}
			c.Orphans, c.KillOrphans = firecracker.Orphans, firecracker.KillOrphans
			if jailed {
				dir := filepath.Join(t.TempDir(), "node-fc-"+fmt.Sprint(os.Getpid()))
				c.Jail = &jail.Options{Dir: dir, UIDs: jail.Range{First: 742000, Count: 64}, Cgroup: filepath.Base(dir)}
			}
			t.Cleanup(func() { // what a test that failed has left: its machines outlive it
				killed := firecracker.KillOrphans(context.Background(), w.dir)
				if err := errors.Join(killed, (&Node{Config: c}).sweepCells()); err != nil {
					t.Error(err)
				}
			})
			w.life(t, c)
			for _, v := range standin.Violations(t, program) {
				t.Errorf("Firecracker's API does not allow it: %s", v)
			}
			if left, err := firecracker.Orphans(t.Context(), w.dir); err != nil || len(left) > 0 {
				t.Errorf("still running: %v, %v", left, err)
			}
		})
	}
}

// sweepCells removes what is left of the jails of machines that have ended.
func (n *Node) sweepCells() error {
	if err := n.openCells(context.Background()); err != nil || n.cells == nil {
		return err
	}
	return n.cells.Close()
}

// life is that of a workspace and its copies.
func (w *world) life(t *testing.T, c Config) {
	t.Helper()
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	must := func(_ dayfly.Workspace, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ws, err := n.Create(t.Context(), spec)
	must(ws, err)
	if ws.StartKind != dayfly.Restore {
		t.Errorf("its start was a %s: %s", ws.StartKind, ws.StartNote)
	}
	w.write(t, n, ws.ID, "first")
	snap, err := n.Snapshot(t.Context(), ws.ID, "")
	must(ws, err)
	w.write(t, n, ws.ID, "second")
	children, err := n.Fork(t.Context(), ws.ID, 2)
	must(ws, err)
	w.write(t, n, ws.ID, "third")
	for i, child := range children {
		w.check(t, n, child.ID, dayfly.Running, "second")
		w.write(t, n, child.ID, fmt.Sprint("child ", i))
	}
	w.check(t, n, ws.ID, dayfly.Running, "third")
	must(n.Pause(t.Context(), ws.ID))
	must(n.Resume(t.Context(), ws.ID))
	w.check(t, n, ws.ID, dayfly.Running, "third")
	must(n.Rollback(t.Context(), ws.ID, string(snap.ID)))
	w.check(t, n, ws.ID, dayfly.Running, "first")
	from := spec
	from.Image, from.Snapshot = "", string(snap.ID)
	copied, err := n.Create(t.Context(), from)
	must(copied, err)
	w.check(t, n, copied.ID, dayfly.Running, "first")

	if err := n.Close(); err != nil { // and another server takes over
		t.Fatal(err)
	}
	if n, err = Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.check(t, n, ws.ID, dayfly.Running, "first")
	w.check(t, n, children[1].ID, dayfly.Running, "child 1")
	w.write(t, n, ws.ID, "fourth")
	must(n.Pause(t.Context(), ws.ID))
	must(n.Resume(t.Context(), ws.ID))
	w.check(t, n, ws.ID, dayfly.Running, "fourth")
	must(n.Stop(t.Context(), children[0].ID))
	must(n.Start(t.Context(), children[0].ID))
	if err := n.DeleteSnapshot(t.Context(), string(snap.ID)); err != nil {
		t.Error(err)
	}
	w.end(t, n, ws.ID, children[0].ID, children[1].ID, copied.ID)
}
