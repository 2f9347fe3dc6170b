package qemu_test

import (
	"bufio"
	"context"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// BenchmarkLaunch is Launch alone, and Launch to the guest's first word on the
// channel.
func BenchmarkLaunch(b *testing.B) {
	boot := fromPackage(b)
	d := qemu.New(qemu.Options{})
	config := func() vmm.Config {
		return vmm.Config{
			ID: "bench", Dir: b.TempDir(), Accel: dayfly.TCG, CPUs: 1, MemoryMiB: dayfly.DefaultMemoryMiB,
			Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
		}
	}
	b.Run("running", func(b *testing.B) {
		for b.Loop() {
			m, err := d.Launch(context.Background(), config())
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			_ = m.Close()
			b.StartTimer()
		}
	})
	b.Run("first-byte", func(b *testing.B) {
		for b.Loop() {
			if err := firstByte(d, config()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func firstByte(d *qemu.Driver, c vmm.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := d.Launch(ctx, c)
	if err != nil {
		return err
	}
	defer m.Close()
	conn, err := m.Channel(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = bufio.NewReader(conn).ReadByte()
	return err
}
