package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/template"
	"github.com/dayfly/dayfly/vmm"
)

// devices names the set of devices that every machine of a workspace has.
// Changing that set means changing this: it is part of what a saved machine
// depends on.
const devices = "channel, root, disk"

// Where a guest finds its root and its disk.
const (
	rootDevice = "/dev/vda"
	diskDevice = "/dev/vdb"
)

// templateKey is what a machine of that size depends on.
func (n *Node) templateKey(ctx context.Context, c choice, boot kernel.Boot, cpus, memoryMiB int) (template.Key, error) {
	version, err := c.driver.Version(ctx)
	if err != nil {
		return template.Key{}, err
	}
	return template.Key{
		VMM:        c.driver.Name(),
		VMMVersion: version,
		Accel:      c.accel,
		CPUModel:   cpuModel(c.accel),
		Kernel:     boot.Kernel.ID,
		Initramfs:  filepath.Base(boot.Initramfs),
		Cmdline:    boot.Cmdline,
		CPUs:       cpus,
		MemoryMiB:  memoryMiB,
		Devices:    devices,
	}, nil
}

// cpuModel is what a guest sees of the host's processor: all of it on KVM, and
// nothing under emulation.
func cpuModel(accel dayfly.Accel) string {
	if accel != dayfly.KVM {
		return "emulated"
	}
	b, _ := os.ReadFile("/proc/cpuinfo")
	h := sha256.New()
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags", "vmx flags":
			h.Write([]byte(line))
		case "": // the end of the first processor
			return hex.EncodeToString(h.Sum(nil)[:16])
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Prepare does ahead of time what the first starts would wait for: it checks the
// templates there are and makes that of a machine of the usual size.
func (n *Node) Prepare(ctx context.Context) error {
	if removed, err := n.templates.Verify(ctx); err != nil {
		return err
	} else if removed > 0 {
		n.Log.Warn("damaged templates were removed", "count", removed)
	}
	if err := n.templates.Drop(func(k template.Key) bool { return n.orphaned(ctx, k) }); err != nil {
		return err
	}
	boot, key, err := n.machineFor(ctx, dayfly.DefaultCPUs, dayfly.DefaultMemoryMiB)
	if err != nil {
		return err
	}
	t, err := n.template(ctx, key, boot)
	return errors.Join(err, t.Close())
}

// machineFor says what a machine of that size is made with, if a caller leaves
// the choice.
func (n *Node) machineFor(ctx context.Context, cpus, memoryMiB int) (boot kernel.Boot, key template.Key, err error) {
	if boot, err = n.Kernels.Boot(ctx, ""); err != nil {
		return boot, key, err
	}
	made, err := n.choose(ctx, dayfly.Auto, boot, false)
	if err != nil {
		return boot, key, err
	}
	key, err = n.templateKey(ctx, made, boot, cpus, memoryMiB)
	return boot, key, err
}

// orphaned reports whether a template is of an image that is here no more, and
// holds some of what was in it.
func (n *Node) orphaned(ctx context.Context, k template.Key) bool {
	if k.Image == "" {
		return false
	}
	lease, err := n.Images.Lease(ctx, k.Image)
	if err != nil {
		return dayfly.KindOf(err) == dayfly.NotFound
	}
	_ = lease.Close()
	return false
}

// template returns the base template of a key, which is built the first time.
func (n *Node) template(ctx context.Context, key template.Key, boot kernel.Boot) (*template.Template, error) {
	return n.templates.Make(ctx, key, func(ctx context.Context, memory *os.File) (template.Parts, error) {
		n.Log.Info("making a template", "template", key.ID(), "cpus", key.CPUs, "memory_mib", key.MemoryMiB)
		return n.buildBase(ctx, key, boot, memory)
	})
}

// settle is how long a new template's guest is left alone before it is saved:
// what it does behind its hello need not be done again by every copy.
const settle = 300 * time.Millisecond

// buildBase boots a machine on throw-away parts, lets it rehearse a start, and
// saves it.
func (n *Node) buildBase(ctx context.Context, key template.Key, boot kernel.Boot, memory *os.File) (p template.Parts, err error) {
	home, err := n.newScratch()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, home.remove()) }()
	props, err := newProps(ctx, home.dir)
	if err != nil {
		return p, fmt.Errorf("node: rehearsal: %w", err)
	}
	m, _, err := n.launch(ctx, n.driverOf(key.VMM), vmm.Config{
		ID: string(home.id), Dir: home.dir, Accel: key.Accel, CPUs: key.CPUs, MemoryMiB: key.MemoryMiB,
		Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
		Drives: props.drives(), Memory: vmm.Memory{File: memory, Shared: true},
	})
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	session, err := n.rehearse(ctx, m, props)
	if err != nil {
		return p, err
	}
	if err := session.Close(); err != nil {
		return p, err
	}
	p.State, err = rest(ctx, m)
	return p, err
}

// rest leaves a machine alone for a while, pauses it and returns its state.
func rest(ctx context.Context, m vmm.Machine) ([]byte, error) {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := m.Pause(ctx); err != nil {
		return nil, err
	}
	return m.Save(ctx)
}

// rehearse waits for a machine's agent and lets it go through a start on the
// props.
func (n *Node) rehearse(ctx context.Context, m vmm.Machine, p *props) (*guest.Session, error) {
	session, err := meet(ctx, m, n.BootDeadline)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its rehearsal within %s", initDeadline))
	defer cancel()
	reply, err := session.Rehearse(ctx, wire.Rehearse{Init: p.init(), Argv: []string{rehearsalFile}})
	if err == nil && reply.ExitCode != 0 {
		err = dayfly.Errorf(dayfly.Unavailable, "the rehearsal's command ended with status %d", reply.ExitCode)
	}
	if err != nil {
		_ = session.Close()
		return nil, whyEnded(ctx, m, err)
	}
	return session, nil
}
