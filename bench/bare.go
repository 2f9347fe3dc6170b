package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// bare boots the kernel that dayfly run boots, with the same driver, to a pid 1
// of a few instructions.
type bare struct {
	driver vmm.Driver
	config vmm.Config
}

func newBare(ctx context.Context, b bed, back *undo.Stack) (*bare, error) {
	dir, err := os.MkdirTemp(b.dir, "bare-")
	if err != nil {
		return nil, err
	}
	back.Push("bare directory", func(context.Context) error { return os.RemoveAll(dir) })
	kernels, err := kernel.Open(filepath.Join(b.dir, "kernels"), powerOffELF())
	if err != nil {
		return nil, err
	}
	boot, err := kernels.Boot(ctx, "")
	if err != nil {
		return nil, err
	}
	accel := dayfly.Accel(b.accel)
	if accel == dayfly.Auto {
		accel = dayfly.TCG
	}
	return &bare{
		driver: qemu.New(qemu.Options{Log: slog.New(slog.DiscardHandler)}),
		config: vmm.Config{
			ID: "bench", Dir: dir, Accel: accel, CPUs: dayfly.DefaultCPUs, MemoryMiB: dayfly.DefaultMemoryMiB,
			Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
		},
	}, nil
}

func (b *bare) once(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	m, err := b.driver.Launch(ctx, b.config)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	select {
	case <-m.Done():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	took := time.Since(began)
	if exit := m.Exit(); exit.Cause != vmm.PowerOff {
		return 0, fmt.Errorf("it ended by %s: %w\n%q", exit.Cause, exit.Err, m.Console())
	}
	return took, nil
}
