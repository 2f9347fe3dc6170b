package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/vmm"
)

// diskFile is the lowest layer of a workspace's disk, a raw file. Those above it
// are diskFile.1, diskFile.2, …; where layers were merged, numbers are missing.
// What the guest writes goes to the uppermost. A layer that has another link
// belongs to a generation as well, and is never written again.
const diskFile = "disk"

// maxLayers bounds a chain: each costs the VMM two open files and some memory.
const maxLayers = 64

// chain lists the layers of the disk in dir, the uppermost first.
func chain(dir string) ([]string, error) {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("node: disk: %w", err)
	}
	var numbers []int
	for _, e := range ents {
		if n, ok := layerNumber(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var layers []string
	for _, n := range slices.Backward(numbers) {
		layers = append(layers, layerPath(dir, n))
	}
	if len(numbers) == 0 || numbers[0] != 0 {
		return nil, dayfly.Errorf(dayfly.Internal, "the workspace's disk is gone: delete the workspace")
	}
	return layers, nil
}

func layerPath(dir string, i int) string {
	if i == 0 {
		return filepath.Join(dir, diskFile)
	}
	return filepath.Join(dir, diskFile+"."+strconv.Itoa(i))
}

// layerNumber reads what layerPath wrote.
func layerNumber(name string) (int, bool) {
	if name == diskFile {
		return 0, true
	}
	text, ok := strings.CutPrefix(name, diskFile+".")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && n > 0 && strconv.Itoa(n) == text
}

// nextLayer is where the layer comes that lies over the others.
func nextLayer(dir string, layers []string) string {
	n, _ := layerNumber(filepath.Base(layers[0]))
	return layerPath(dir, n+1)
}

// drive returns the disk in dir as a machine is to have it: with an uppermost
// layer that nothing else has.
func drive(dir string) (vmm.Drive, error) {
	layers, err := chain(dir)
	if err != nil {
		return vmm.Drive{}, err
	}
	shared, err := isShared(layers[0])
	if err != nil {
		return vmm.Drive{}, err
	}
	if shared {
		if layers, err = raise(dir, layers); err != nil {
			return vmm.Drive{}, err
		}
	}
	return vmm.Drive{Path: layers[0], Below: layers[1:]}, nil
}

// unusedTop reports whether nothing was ever written to the uppermost layer, and
// nothing else has it. The machine must stand still.
func unusedTop(layers []string) (bool, error) {
	if len(layers) < 2 {
		return false, nil
	}
	if shared, err := isShared(layers[0]); shared || err != nil {
		return false, err
	}
	return vmm.LayerIsEmpty(layers[0])
}

// raise lays an empty layer over the others.
func raise(dir string, layers []string) ([]string, error) {
	if err := mayRaise(layers); err != nil {
		return nil, err
	}
	size, err := diskSize(layers)
	if err != nil {
		return nil, err
	}
	top := nextLayer(dir, layers)
	if err := vmm.CreateLayer(top, size); err != nil {
		return nil, noSpace(err)
	}
	return append([]string{top}, layers...), nil
}

func mayRaise(layers []string) error {
	if len(layers) >= maxLayers {
		return dayfly.Errorf(dayfly.Exhausted, "the workspace's disk has %d layers, one for each pause, snapshot and fork, and can have no more until they are merged: see that the host's disk has room for what they hold, and try again", len(layers))
	}
	return nil
}

func diskSize(layers []string) (int64, error) {
	fi, err := os.Stat(layers[len(layers)-1])
	if err != nil {
		return 0, fmt.Errorf("node: disk: %w", err)
	}
	return fi.Size(), nil
}

func isShared(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return false, fmt.Errorf("node: disk: %w", err)
	}
	return st.Nlink > 1, nil
}

// linkChain gives dir the layers as its disk.
func linkChain(dir string, layers []string) error {
	for i, path := range layers {
		if err := os.Link(path, layerPath(dir, len(layers)-1-i)); err != nil {
			return fmt.Errorf("node: disk: %w", noSpace(err))
		}
	}
	return nil
}

// cutChain takes away the layers above the lowest n, the uppermost first.
func cutChain(dir string, n int) error {
	layers, err := chain(dir)
	if err != nil {
		return err
	}
	for len(layers) > n {
		if err := os.Remove(layers[0]); err != nil {
			return fmt.Errorf("node: disk: %w", err)
		}
		layers = layers[1:]
	}
	return nil
}

// alignChain makes the disk in dir consist of the layers: those that are there
// already stay, what lies above them goes, and the others are linked; where none
// is there, as with disks that are copies of each other, the lowest is replaced.
// Whenever it is cut short, the disk is what it was at some time.
func alignChain(dir string, layers []string) error {
	have, err := chain(dir)
	if err != nil {
		return err
	}
	same := common(have, layers)
	if same == 0 {
		if err := replaceLowest(dir, layers[len(layers)-1]); err != nil {
			return err
		}
		same = 1
	}
	if err := cutChain(dir, same); err != nil {
		return err
	}
	have = have[len(have)-same:]
	for _, path := range slices.Backward(layers[:len(layers)-same]) {
		next := nextLayer(dir, have)
		if err := os.Link(path, next); err != nil {
			return fmt.Errorf("node: disk: %w", noSpace(err))
		}
		have = append([]string{next}, have...)
	}
	return nil
}

// common counts the lowest layers that are the same in both.
func common(a, b []string) (n int) {
	for n < len(a) && n < len(b) && sameFile(a[len(a)-1-n], b[len(b)-1-n]) {
		n++
	}
	return n
}

// beforeDir has links to the layers that a workspace had before it began to go
// back in time. It is there until it runs, or until it has them again.
const beforeDir = "before"

// keepChain makes beforeDir. One that is there is of a process that died when it
// went back in time.
func keepChain(dir string) error {
	if err := restoreChain(dir); err != nil {
		return err
	}
	layers, err := chain(dir)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, ".new-"+beforeDir)
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o700)); err != nil {
		return fmt.Errorf("node: disk: %w", noSpace(err))
	}
	err = linkChain(tmp, layers)
	if err == nil {
		err = syncPath(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, beforeDir))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("node: disk: %w", noSpace(err)), os.RemoveAll(tmp))
	}
	return nil
}

// restoreChain gives the disk in dir the layers that beforeDir has, if there is
// one. Repeated after a crash it does what is left to do.
func restoreChain(dir string) error {
	before := filepath.Join(dir, beforeDir)
	if _, err := os.Lstat(layerPath(before, 0)); errors.Is(err, fs.ErrNotExist) { // or it was being forgotten
		return errors.Join(os.RemoveAll(before), os.RemoveAll(filepath.Join(dir, ".new-"+beforeDir)))
	}
	layers, err := chain(before)
	if err != nil {
		return err
	}
	if err := alignChain(dir, layers); err != nil {
		return err
	}
	return dropChain(dir)
}

// dropChain forgets the layers in beforeDir. The lowest goes first: without that,
// what a crash leaves is no disk.
func dropChain(dir string) error {
	before := filepath.Join(dir, beforeDir)
	if err := os.Remove(layerPath(before, 0)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("node: disk: %w", err)
	}
	return os.RemoveAll(before)
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// addLayers puts the layers into a generation.
func addLayers(ctx context.Context, w *snapshot.Writer, layers []string) error {
	for i, path := range slices.Backward(layers) {
		format := snapshot.Qcow2
		if i == len(layers)-1 {
			format = snapshot.Raw
		}
		if err := w.Disk(ctx, path, format); err != nil {
			return err
		}
	}
	return nil
}

// noSpace gives a full disk its meaning, unless it has one.
func noSpace(err error) error {
	if (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && dayfly.KindOf(err) != dayfly.Exhausted {
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no space left on this host: delete workspaces, snapshots or images, or enlarge the state directory's file system", Err: err}
	}
	return err
}
