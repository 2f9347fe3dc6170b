package firecracker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm/firecracker"
	"github.com/dayfly/dayfly/vmm/firecracker/standin"
	"github.com/dayfly/dayfly/vmm/vmmtest"
)

func TestMain(m *testing.M) {
	jail.Enter()
	standin.Main()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if prepared.dir != "" {
			_ = os.RemoveAll(prepared.dir)
		}
		os.Exit(code)
	}))
}

func vmlinux(t *testing.T) string { t.Helper(); return standin.Kernel(t) }

func initramfs(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// strict installs a stand-in without faults that fails the test for whatever is
// wrong about a request.
func strict(t *testing.T) string {
	t.Helper()
	program := standin.Install(t, standin.Faults{})
	t.Cleanup(func() {
		for _, v := range standin.Violations(t, program) {
			t.Errorf("Firecracker's API does not allow it: %s", v)
		}
	})
	return program
}

// prepared is a distribution's kernel with the suite's guest, made once.
var prepared struct {
	dir  string
	once sync.Once
	boot kernel.Boot
	err  error
}

func fromPackage(t *testing.T) kernel.Boot {
	t.Helper()
	deb := needs.KernelDeb(t)
	prepared.once.Do(func() {
		prepared.err = func() (err error) {
			if prepared.dir, err = os.MkdirTemp("", "dayfly-firecracker-test-*"); err != nil {
				return err
			}
			k, err := kernel.Open(prepared.dir, vmmtest.Guest(t))
			if err != nil {
				return err
			}
			if _, err := k.Import(t.Context(), deb, nil); err != nil {
				return err
			}
			prepared.boot, err = k.Boot(t.Context(), "")
			return err
		}()
	})
	if prepared.err != nil {
		t.Fatal(fmt.Errorf("prepare a kernel: %w", prepared.err))
	}
	return prepared.boot
}

// TestConformanceOnKVM runs the suite over Firecracker itself.
func TestConformanceOnKVM(t *testing.T) {
	binary := needs.Firecracker(t)
	needs.KVM(t)
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		boot := fromPackage(t)
		return suite(vmmtest.Setup{
			Driver: firecracker.New(firecracker.Options{Binary: binary}),
			Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
		})
	})
}

// TestConformanceOfStandIn runs the suite over a stand-in: it shows that the
// driver keeps its promises and Firecracker's API, not that a guest boots.
func TestConformanceOfStandIn(t *testing.T) {
	vmmtest.Run(t, func(t *testing.T) vmmtest.Setup {
		return suite(vmmtest.Setup{
			Driver: firecracker.New(firecracker.Options{Binary: strict(t)}),
			Kernel: vmlinux(t), Initramfs: initramfs(t),
		})
	})
}

// suite adds what is true of every Firecracker.
func suite(s vmmtest.Setup) vmmtest.Setup {
	s.Accel, s.Processes = dayfly.KVM, true
	s.Orphans = func(dir string) ([]int, error) { return firecracker.Orphans(context.Background(), dir) }
	s.KillOrphans = func(dir string) error { return firecracker.KillOrphans(context.Background(), dir) }
	return s
}
