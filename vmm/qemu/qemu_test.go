package qemu_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm/qemu"
	"github.com/dayfly/dayfly/vmm/vmmtest"
)

// store is where all tests share one unpacked kernel.
var store struct {
	dir  string
	once sync.Once
	boot kernel.Boot
	err  error
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if store.dir != "" {
			_ = os.RemoveAll(store.dir)
		}
		os.Exit(code)
	}))
}

// boot unpacks a distribution's kernel and packs the suite's guest for it.
func boot(t testing.TB) kernel.Boot {
	t.Helper()
	needs.QEMU(t)
	deb := needs.KernelDeb(t)
	store.once.Do(func() {
		store.err = func() (err error) {
			if store.dir, err = os.MkdirTemp("", "dayfly-qemu-test-*"); err != nil {
				return err
			}
			s, err := kernel.Open(store.dir, vmmtest.Guest(t))
			if err != nil {
				return err
			}
			if _, err := s.Import(context.Background(), deb, nil); err != nil {
				return err
			}
			store.boot, err = s.Boot(context.Background(), "")
			return err
		}()
	})
	if store.err != nil {
		t.Fatal(fmt.Errorf("prepare a kernel: %w", store.err))
	}
	return store.boot
}

func setup(t *testing.T) vmmtest.Setup {
	b := boot(t)
	return vmmtest.Setup{
		Driver: qemu.New(qemu.Options{}), Accel: dayfly.TCG,
		Kernel: b.Vmlinux, Initramfs: b.Initramfs, Cmdline: b.Cmdline,
		Processes:   true,
		Orphans:     func(dir string) ([]int, error) { return qemu.Orphans(context.Background(), dir) },
		KillOrphans: func(dir string) error { return qemu.KillOrphans(context.Background(), dir) },
	}
}

func TestConformance(t *testing.T) { vmmtest.Run(t, setup) }
