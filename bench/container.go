package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/undo"
)

// container is what a container runtime does at the least.
type container struct{ root string }

func newContainer(ctx context.Context, b bed, back *undo.Stack) (*container, error) {
	images, err := image.Open(filepath.Join(b.dir, "images"), image.Options{})
	if err != nil {
		return nil, err
	}
	lease, err := images.Lease(ctx, b.image)
	if err != nil {
		return nil, err
	}
	back.Push("lease", func(context.Context) error { return lease.Close() })
	root, err := os.MkdirTemp(b.dir, "root-")
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
