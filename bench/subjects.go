package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// subject is one thing that is measured.
type subject struct {
	name, what string
	once       func(context.Context) (time.Duration, error)
}

// newSubjects prepares all that the subjects share; the returned function takes
// it back.
func newSubjects(ctx context.Context, o options) ([]subject, func(), error) {
	var back undo.Stack
	cleanUp := func() {
		if err := back.Run(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	b, err := newBare(ctx, o, &back)
	if err != nil {
		cleanUp()
		return nil, nil, err
	}
	c, err := newContainer(ctx, o, &back)
	if err != nil {
		cleanUp()
		return nil, nil, err
	}
	return []subject{
		{"run", "dayfly run: exec of the command → first output of echo in a new workspace", o.dayflyRun("2G")},
		{"run200", "the same with a disk of 200 GiB instead of 2", o.dayflyRun("200G")},
		{"bare", "reference: the same VMM and kernel to a pid 1 that powers off at once", b.once},
		{"container", "reference: new namespaces and a chroot into the same root, first output of echo", c.once},
	}, cleanUp, nil
}

// dayflyRun takes the time from the start of the command to its first output,
// and sees that it ends well.
func (o options) dayflyRun(disk string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		return firstOutput(exec.CommandContext(ctx, o.dayfly, "run", "--state", o.state, "--accel", o.accel, "--disk", disk, "--cold", o.image, "--", "echo", "hello"))
	}
}

// firstOutput runs a command that prints hello and returns when that arrived.
func firstOutput(c *exec.Cmd) (time.Duration, error) {
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := c.Start(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	took := time.Since(began)
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("it printed %q", line)
	}
	return took, errors.Join(err, c.Wait())
}

// bare boots the kernel that dayfly run boots, with the same driver, to a pid 1
// of a few instructions.
type bare struct {
	driver vmm.Driver
	config vmm.Config
}

func newBare(ctx context.Context, o options, back *undo.Stack) (*bare, error) {
	state, err := stateOf(o)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "dayfly-bench-")
	if err != nil {
		return nil, err
	}
	back.Push("bench dir", func(context.Context) error { return os.RemoveAll(dir) })
	kernels, err := kernel.Open(filepath.Join(state, "kernels"), powerOffELF())
	if err != nil {
		return nil, err
	}
	boot, err := kernels.Boot(ctx, "")
	if err != nil {
		return nil, err
	}
	accel := dayfly.Accel(o.accel)
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

// container is what a container runtime does at the least.
type container struct{ root string }

func newContainer(ctx context.Context, o options, back *undo.Stack) (*container, error) {
	images, err := image.Open(filepath.Join(o.state, "images"), image.Options{})
	if err != nil {
		return nil, err
	}
	lease, err := images.Lease(ctx, o.image)
	if err != nil {
		return nil, err
	}
	back.Push("lease", func(context.Context) error { return lease.Close() })
	root, err := os.MkdirTemp("", "dayfly-bench-root-")
	if err != nil {
		return nil, err
	}
	back.Push("root", func(context.Context) error { return os.Remove(root) })
	if out, err := exec.CommandContext(ctx, "mount", "-o", "loop,ro", lease.Path, root).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mount the root: %w: %s", err, out)
	}
	back.Push("mount", func(context.Context) error { return syscall.Unmount(root, 0) })
	return &container{root}, nil
}

func (c *container) once(ctx context.Context) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, "/bin/echo", "hello")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     c.root,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
	}
	cmd.Dir = "/"
	return firstOutput(cmd)
}
