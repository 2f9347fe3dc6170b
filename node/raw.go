package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/vmm"
)

// Under a VMM that has no layers of disks, each machine has a raw file of its own.
// What stands still is a copy of that file, or, where no machine writes it any
// more, the file itself: a pause has a link to it, and the machine that goes on
// from there gets a copy. The rule is that of layers: what has more than one link
// is never written.

// copyFile is a copy of a disk that is not whole yet. What begins like that is a
// layer that is not.
const copyFile = ".new-" + diskFile

// ownDisk returns the disk in dir as a machine without layers is to have it: one
// file that nothing else has.
func ownDisk(ctx context.Context, dir string) (vmm.Drive, error) {
	path, err := oneFile(dir)
	if err != nil {
		return vmm.Drive{}, err
	}
	shared, err := isShared(path)
	if err == nil && shared {
		err = replaceDisk(dir, func(to string) error { return disk.Copy(ctx, path, to) })
	}
	return vmm.Drive{Path: path}, err
}

// oneFile is the disk in dir, which has no layers.
func oneFile(dir string) (string, error) {
	layers, err := chain(dir)
	if err != nil {
		return "", err
	}
	if len(layers) > 1 {
		return "", hasLayers()
	}
	return layers[0], nil
}

func hasLayers() error {
	return dayfly.Errorf(dayfly.Unavailable, "the disk has layers, which only qemu can read: use qemu for it (--vmm qemu, or auto)")
}

// replaceDisk puts another file in the place of the lowest layer of the disk in
// dir, at once.
func replaceDisk(dir string, make func(to string) error) error {
	if err := dropCopy(dir); err != nil {
		return err
	}
	tmp := filepath.Join(dir, copyFile)
	err := make(tmp)
	if err == nil {
		err = os.Rename(tmp, layerPath(dir, 0))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("node: disk: %w", noSpace(err)), dropCopy(dir))
	}
	return nil
}

// replaceLowest makes a disk of one layer of that in dir: another than it has.
func replaceLowest(dir, lowest string) error {
	if err := cutChain(dir, 1); err != nil {
		return err
	}
	return replaceDisk(dir, func(to string) error { return os.Link(lowest, to) })
}

// dropCopy removes what a process that died left of a copy, or of a layer.
func dropCopy(dir string) error {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("node: disk: %w", err)
	}
	for _, e := range ents {
		if !strings.HasPrefix(e.Name(), copyFile) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("node: disk: %w", err)
		}
	}
	return nil
}

// privateDisk returns the workspace's disk as its machine is to have it.
func (s *start) privateDisk(ctx context.Context) (vmm.Drive, error) {
	if s.w.node.lacks(s.parts.made).Layers {
		return ownDisk(ctx, s.w.dir)
	}
	return drive(s.w.dir)
}

// layerOrCopy has what is on the disk stand still: below a new layer, or, where
// there are none, in a copy.
func (s *sitting) layerOrCopy(ctx context.Context) error {
	if !s.w.node.lacks(s.w.parts.made).Layers {
		return s.layer(ctx)
	}
	path, err := oneFile(s.w.dir)
	if err != nil {
		return err
	}
	return noSpace(disk.Copy(ctx, path, layerPath(s.p.home.dir, 0)))
}

// save returns the state of the workspace's machine. Where its channel ends with
// that, nothing can be asked of its agent until thaw has opened it again.
func (w *workspace) save(ctx context.Context) ([]byte, error) {
	w.hungUp = w.hungUp || w.node.lacks(w.parts.made).LastingChannel
	return w.parts.machine.Save(ctx)
}

// freeze stops the processes of a running workspace.
func (w *workspace) freeze(ctx context.Context) error {
	if err := w.rejoin(ctx); err != nil {
		return err
	}
	return freeze(ctx, w.parts.session)
}

// thaw lets the processes of a workspace go on, whose machine goes on already.
func (w *workspace) thaw(ctx context.Context) error {
	if err := w.rejoin(ctx); err != nil {
		return err
	}
	return thaw(ctx, w.parts.session)
}

// rejoinDeadline is how long a guest's agent gets to answer again once it has been
// saved.
const rejoinDeadline = 10 * time.Second

// rejoin opens the session again, if saving the machine has ended it. Streams in
// it are lost; the next that is asked of the workspace tries again, should it fail.
func (w *workspace) rejoin(ctx context.Context) error {
	if !w.hungUp {
		return nil
	}
	w.session.Store(nil)
	_ = w.parts.session.Close() // its other end is gone
	session, err := meet(ctx, w.parts.machine, min(rejoinDeadline, w.node.BootDeadline))
	if err != nil {
		return err
	}
	w.parts.session, w.hungUp = session, false
	w.session.Store(session)
	return nil
}
