package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/node/cell"
	"github.com/dayfly/dayfly/template"
	"github.com/dayfly/dayfly/vmm"
)

// A prepared machine is one step further than an empty one: it has an image's
// root and an empty disk mounted, under names and a key that nobody else has
// and nobody keeps. To become a workspace it gets that workspace's disk, which
// holds the same under another key, and is renewed as every copy is.

// preparedKey is the key of an image's template.
func preparedKey(base template.Key, img dayfly.Image, diskMiB int) template.Key {
	base.Image, base.DiskMiB = img.Digest, diskMiB
	return base
}

// throwaway is a disk that a machine has until it becomes a workspace.
type throwaway struct {
	path string
	size int64
	key  *keyring.Key
}

func newThrowaway(ctx context.Context, path string, diskMiB int, o disk.Options) (*throwaway, error) {
	t := &throwaway{path, int64(diskMiB) << 20, new(keyring.Key)}
	_, _ = rand.Read(t.key[:])
	return t, disk.Create(ctx, path, t.size, t.key, o)
}

// capture reads what the disk holds. The machine must be paused.
func (t *throwaway) capture(ctx context.Context) (*disk.Content, error) {
	return disk.Capture(ctx, t.path, t.size, t.key)
}

// rehearsals are commands that let a machine go through the start of a process:
// whichever the image has. That it has none of them is fine.
var rehearsals = [][]string{{"/bin/sh", "-c", ":"}, {"/bin/true"}}

// practise starts processes in a machine as a client would.
func practise(ctx context.Context, session *guest.Session) error {
	for _, argv := range rehearsals {
		var no *guest.Refusal
		if _, err := session.Run(ctx, argv); err != nil && !errors.As(err, &no) {
			return err
		}
	}
	return nil
}

// prepare returns the template of an image, which is built the first time.
func (n *Node) prepare(ctx context.Context, key template.Key, boot kernel.Boot, lease *image.Lease) (*template.Template, error) {
	return n.templates.Make(ctx, key, func(ctx context.Context, memory *os.File) (template.Parts, error) {
		n.Log.Info("making a template", "template", key.ID(), "image", key.Image, "cpus", key.CPUs, "memory_mib", key.MemoryMiB, "disk_mib", key.DiskMiB)
		return n.buildPrepared(ctx, key, boot, lease, memory)
	})
}

// prepared returns the template of an image and what its disk holds.
func (n *Node) prepared(ctx context.Context, key template.Key, boot kernel.Boot, lease *image.Lease) (*template.Template, *disk.Content, error) {
	t, err := n.prepare(ctx, key, boot, lease)
	if err != nil {
		return nil, nil, err
	}
	content, err := disk.DecodeContent(t.Disk)
	if err != nil {
		return nil, nil, errors.Join(err, t.Close())
	}
	return t, content, nil
}

// buildPrepared restores an empty machine, makes it a workspace that is nobody's,
// and saves that.
func (n *Node) buildPrepared(ctx context.Context, key template.Key, boot kernel.Boot, lease *image.Lease, memory *os.File) (p template.Parts, err error) {
	empty := key
	empty.Image, empty.DiskMiB = "", 0
	base, err := n.template(ctx, empty, boot)
	if err != nil {
		return p, err
	}
	defer base.Close()
	home, err := n.newScratch()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, home.remove()) }()
	private, err := newThrowaway(ctx, filepath.Join(home.dir, "props"), key.DiskMiB, n.diskOptions(nil))
	if err != nil {
		return p, err
	}
	m, _, err := n.launchFrom(ctx, home, base, boot, []vmm.Drive{{Path: lease.Path, ReadOnly: true}, {Path: private.path}})
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	session, err := meet(ctx, m, n.BootDeadline)
	if err != nil {
		return p, err
	}
	defer session.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its preparations within %s", initDeadline))
	defer cancel()
	if _, err := session.Init(ctx, wire.Init{
		ID: nobody, Entropy: freshEntropy(), Timestamp: time.Now().UTC().Format(time.RFC3339Nano), Restored: true,
		DefaultUser: lease.Image.Config.User, DefaultWorkdir: lease.Image.Config.Workdir, Config: &lease.Image.Config,
		Root: &wire.Root{Image: rootDevice, Disk: diskDevice, DiskKey: append([]byte(nil), private.key[:]...), DiskSize: private.size},
	}); err != nil {
		return p, whyEnded(ctx, m, err)
	}
	if err := practise(ctx, session); err != nil {
		return p, whyEnded(ctx, m, err)
	}
	return n.savePrepared(ctx, m, session, private, memory)
}

// nobody is the id and host name of a machine that is not yet a workspace. It is
// short, as a file that grows is rewritten several times faster than one that
// shrinks.
const nobody = "n"

// savePrepared puts the disk to rest and takes the machine's parts.
func (n *Node) savePrepared(ctx context.Context, m vmm.Machine, session *guest.Session, private *throwaway, memory *os.File) (p template.Parts, err error) {
	if err := session.Rest(ctx); err != nil {
		return p, err
	}
	if err := session.Close(); err != nil {
		return p, err
	}
	if p.State, err = rest(ctx, m); err != nil {
		return p, err
	}
	content, err := private.capture(ctx)
	if err != nil {
		return p, err
	}
	p.Disk = content.Encode()
	return p, copyRAM(ctx, m, memory)
}

// copyRAM writes a paused machine's memory to a file.
func copyRAM(ctx context.Context, m vmm.Machine, memory *os.File) (err error) {
	ram, err := m.RAM(ctx)
	if err != nil {
		return err
	}
	pages, err := ram.Touched(ctx)
	if err != nil {
		return err
	}
	view, err := unix.Mmap(int(memory.Fd()), 0, int(ram.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("node: memory: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(view)) }()
	return ram.Copy(ctx, view, pages)
}

// launchFrom restores a template in a directory that is no workspace's.
func (n *Node) launchFrom(ctx context.Context, home *scratch, t *template.Template, boot kernel.Boot, drives []vmm.Drive) (vmm.Machine, *cell.Cell, error) {
	return n.launch(ctx, n.driverOf(t.Key.VMM), vmm.Config{
		ID: string(home.id), Dir: home.dir, Accel: t.Key.Accel, CPUs: t.Key.CPUs, MemoryMiB: t.Key.MemoryMiB,
		Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
		Drives: drives, Memory: vmm.Memory{File: t.Memory}, State: t.State,
		Orphan: n.Outlive, // as it may become a workspace; until then it is swept, having no record
	})
}

// becomeOne asks a prepared machine to become the workspace with that id and key.
func becomeOne(ctx context.Context, session *guest.Session, in wire.Renew, key *keyring.Key) (wire.RenewReply, error) {
	in.Identity, in.Entropy, in.Timestamp = wire.IdentityNew, freshEntropy(), time.Now().UTC().Format(time.RFC3339Nano)
	in.DiskKey = append([]byte(nil), key[:]...)
	return session.Renew(ctx, in)
}

// newPreparedSpare restores an image's template and lets it become a workspace
// that is nobody's, once more.
func (n *Node) newPreparedSpare(ctx context.Context, key template.Key, boot kernel.Boot, name string) (_ *spare, err error) {
	lease, err := n.Images.Lease(ctx, key.Image)
	if err != nil {
		return nil, err
	}
	s := &spare{key: key, image: name, lease: lease, made: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	t, content, err := n.prepared(ctx, key, boot, lease)
	if err != nil {
		return nil, err
	}
	s.memory = t.Memory
	if s.home, err = n.newScratch(); err != nil {
		return nil, err
	}
	s.props = filepath.Join(s.home.dir, "props")
	private, err := newThrowaway(ctx, s.props, key.DiskMiB, n.diskOptions(content))
	if err != nil {
		return nil, err
	}
	s.machine, s.cell, err = n.launchFrom(ctx, s.home, t, boot, []vmm.Drive{{Path: lease.Path, ReadOnly: true}, {Path: private.path}})
	if err != nil {
		return nil, err
	}
	setNice(s.machine.PID(), politeness)
	if s.session, err = meet(ctx, s.machine, n.BootDeadline); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its rehearsal within %s", initDeadline))
	defer cancel()
	for range 2 { // the second time what the first has translated
		if _, err := becomeOne(ctx, s.session, wire.Renew{Generation: nobody, ID: nobody}, private.key); err != nil {
			return nil, whyEnded(ctx, s.machine, err)
		}
		if err := practise(ctx, s.session); err != nil {
			return nil, whyEnded(ctx, s.machine, err)
		}
		if err := s.session.Rest(ctx); err != nil {
			return nil, whyEnded(ctx, s.machine, err)
		}
	}
	if err := s.machine.Pause(ctx); err != nil {
		return nil, err
	}
	s.content, err = private.capture(ctx)
	return s, err
}
