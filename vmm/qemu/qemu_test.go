package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm/qemu"
	"github.com/dayfly/dayfly/vmm/vmmtest"
)

// store is a kernel and the suite's guest, made once for all tests.
type store struct {
	dir  string
	once sync.Once
	boot kernel.Boot
	err  error
}

var distribution, tuned store

func TestMain(m *testing.M) {
	jail.Enter()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, dir := range []string{distribution.dir, tuned.dir} {
			if dir != "" {
				_ = os.RemoveAll(dir)
			}
		}
		os.Exit(code)
	}))
}

// prepare fills the store by fill, which may add a kernel, and packs the guest.
func (s *store) prepare(t testing.TB, fill func(*kernel.Store) error) kernel.Boot {
	t.Helper()
	s.once.Do(func() {
		s.err = func() (err error) {
			if s.dir == "" {
				if s.dir, err = os.MkdirTemp("", "dayfly-qemu-test-*"); err != nil {
					return err
				}
			}
			k, err := kernel.Open(s.dir, vmmtest.Guest(t))
			if err != nil {
				return err
			}
			if err := fill(k); err != nil {
				return err
			}
			s.boot, err = k.Boot(context.Background(), "")
			return err
		}()
	})
	if s.err != nil {
		t.Fatal(fmt.Errorf("prepare a kernel: %w", s.err))
	}
	return s.boot
}

// fromPackage boots a distribution's kernel, which finds its devices by ACPI.
func fromPackage(t testing.TB) kernel.Boot {
	t.Helper()
	needs.QEMU(t)
	deb := needs.KernelDeb(t)
	return distribution.prepare(t, func(k *kernel.Store) error {
		_, err := k.Import(context.Background(), deb, nil)
		return err
	})
}

// fromState boots the tuned kernel of the prepared state directory, which has
// no ACPI. It is copied: the suite's guest is not to be packed there.
func fromState(t testing.TB) kernel.Boot {
	t.Helper()
	needs.QEMU(t)
	kernels := os.DirFS(filepath.Join(needs.State(t), "kernels"))
	b := tuned.prepare(t, func(k *kernel.Store) error { return os.CopyFS(tuned.dir, kernels) })
	if b.Kernel.Flavour != "tuned" {
		t.Skip(needs.Prefix + "tuned-kernel: the state directory has none: run make kernel")
	}
	return b
}

func setup(b kernel.Boot, accel dayfly.Accel) vmmtest.Setup {
	return vmmtest.Setup{
		Driver: qemu.New(qemu.Options{}), Accel: accel,
		Kernel: b.Vmlinux, Initramfs: b.Initramfs, Cmdline: b.Cmdline,
		Processes:   true,
		Orphans:     func(dir string) ([]int, error) { return qemu.Orphans(context.Background(), dir) },
		KillOrphans: func(dir string) error { return qemu.KillOrphans(context.Background(), dir) },
	}
}

func TestConformance(t *testing.T) {
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup { return setup(fromPackage(t), dayfly.TCG) })
}

// TestConformanceInJail is the suite where every QEMU lives in a jail.
func TestConformanceInJail(t *testing.T) {
	needs.Jail(t)
	fromState(t)
	block := cells(t)
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		s := setup(fromState(t), dayfly.TCG)
		s.Network = vmmtest.NewNamespace(t)
		s.Spawner = block.Cell(jail.Limits{}).Connect(s.Network)
		return s
	})
}

// jailDir is a variable that says where the account of jails is: a child of the
// test, whose machines outlive it, has it in common with the test.
const jailDir = "DAYFLY_TEST_JAILS"

func cells(t *testing.T) *cell.Block {
	t.Helper()
	dir := os.Getenv(jailDir)
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "qemu-test-"+strconv.Itoa(os.Getpid()))
		t.Setenv(jailDir, dir)
	}
	block, err := cell.Open(t.Context(), jail.Options{Dir: dir, UIDs: jail.Range{First: 740000, Count: 512}, Cgroup: filepath.Base(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(block.Sweep(context.Background()), block.Close()); err != nil {
			t.Error(err)
		}
	})
	return block
}

func TestConformanceOfTunedKernel(t *testing.T) {
	fromState(t)
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup { return setup(fromState(t), dayfly.TCG) })
}

func TestConformanceOnKVM(t *testing.T) {
	needs.KVM(t)
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup { return setup(fromPackage(t), dayfly.KVM) })
}
