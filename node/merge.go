package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

const (
	// mergeAbove is how many layers a disk has before they are merged, by default.
	mergeAbove = 16

	// mergePatience is how long a pause, snapshot or fork waits for a merge, where
	// it waits for one at all.
	mergePatience = 30 * time.Second

	// mergeSpeed is how much is copied in a second where machines may do so much
	// as they like: the disk is others' as well. Where they may not, a merge has
	// mergeShare of what its machine may do, or half of it if it is urgent.
	mergeSpeed = 64 << 20
	mergeShare = 4
)

// merging is a merge under way: the machine copies what the layers between the
// lowest and the uppermost hold into that, which the guest writes to as well.
// The layers stay in the directory until that has come to its end.
//
// The disk is the same all along, and stays the same when they are removed one
// by one: what lies between is hidden. So it does not matter where a process
// that does this dies, or what its VMM has come to by then.
type merging struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
	urgent bool  // waited for rather than cancelled
}

// ended is closed when the merge has ended. It is nil where there is none.
func (m *merging) ended() <-chan struct{} {
	if m == nil {
		return nil
	}
	return m.done
}

// urgentLayers is how many layers a disk has at most when merging them is waited
// for: as long as one is only cancelled, it need not come to its end.
const urgentLayers = maxLayers * 3 / 4

// mergeAfterPush has the layers merged of which there are many by now.
func (w *workspace) mergeAfterPush() { w.mergeIfAbove(w.node.MergeAbove) }

// mergeAfterStart leaves some more: a copy shares its layers with others for as
// long as they are not merged.
func (w *workspace) mergeAfterStart() { w.mergeIfAbove(min(2*w.node.MergeAbove, urgentLayers)) }

func (w *workspace) mergeIfAbove(limit int) {
	layers, err := chain(w.dir)
	if err == nil && len(layers) > limit {
		err = w.merge(layers)
	}
	if err != nil {
		w.node.Log.Warn("layers are not merged", "workspace", w.id, "err", err)
	}
}

// merge begins to merge the layers of a running workspace, where its VMM can.
func (w *workspace) merge(layers []string) error {
	m, ok := w.parts.machine.(vmm.Merger)
	if !ok || w.merging != nil {
		return nil
	}
	if err := roomToMerge(layers); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	j := &merging{cancel: cancel, done: make(chan struct{}), urgent: len(layers) >= min(3*w.node.MergeAbove, urgentLayers)}
	w.merging = j
	w.node.Log.Debug("merge of layers", "workspace", w.id, "layers", len(layers), "urgent", j.urgent)
	go func() {
		defer close(j.done)
		defer cancel()
		j.err = m.Merge(ctx, writable, w.node.IO.forMerge(j.urgent))
	}()
	return nil
}

// forMerge is how many bytes a merge may copy in a second; 0 is no bound.
func (io IO) forMerge(urgent bool) int64 {
	bound := min(orMax(io.Read), orMax(io.Write))
	switch {
	case bound == noBound && urgent:
		return 0
	case bound == noBound:
		return mergeSpeed
	case urgent:
		return max(bound/2, 1)
	}
	return max(min(bound/mergeShare, mergeSpeed), 1)
}

const noBound = int64(1<<63 - 1)

func orMax(n int64) int64 {
	if n <= 0 {
		return noBound
	}
	return n
}

// roomToMerge looks whether the host has room for what is between the lowest and
// the uppermost layer, and as much besides: without it guests would be told that
// their disk is full.
func roomToMerge(layers []string) error {
	var need int64
	for _, path := range layers[1:max(1, len(layers)-1)] {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("node: disk: %w", err)
		}
		need += st.Blocks * 512
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(layers[0], &fs); err != nil {
		return fmt.Errorf("node: disk: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free/2 < need {
		return noSpace(fmt.Errorf("node: merge of %d MiB: %w", need>>20, unix.ENOSPC))
	}
	return nil
}

// standStill sees to it that the layers stay as they are, until the owner does
// something else, and that there is room for one more. A merge under way is
// cancelled, as what was copied stays copied; one that is urgent is waited for.
func (w *workspace) standStill(ctx context.Context) error {
	layers, err := chain(w.dir)
	if err != nil {
		return err
	}
	if mayRaise(layers) != nil {
		if err := w.merge(layers); err != nil {
			return err
		}
	}
	if m := w.merging; m != nil && m.urgent {
		late := time.NewTimer(mergePatience)
		defer late.Stop()
		select {
		case <-m.done:
		case <-late.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	w.endMerge()
	return nil
}

// endMerge ends the merge under way, if there is one. If it came to its end the
// layers are gone that it merged. What could not be ended makes a pause, a
// snapshot or a fork fail, which the machine refuses then.
func (w *workspace) endMerge() {
	m := w.merging
	if m == nil {
		return
	}
	m.cancel()
	<-m.done
	w.merging = nil
	switch {
	case m.err == nil:
		w.dropMerged()
	case !errors.Is(m.err, context.Canceled) && dayfly.KindOf(m.err) != dayfly.Conflict: // the machine has ended
		w.node.Log.Warn("merge of layers", "workspace", w.id, "err", m.err)
	}
}

// dropMerged removes the layers that a machine has merged.
func (w *workspace) dropMerged() {
	layers, err := chain(w.dir)
	if err == nil && len(layers) > 2 {
		err = removeLayers(w.dir, layers[1:len(layers)-1])
	}
	if err != nil { // they are in nobody's way, and the next merge takes them along
		w.node.Log.Warn("removal of merged layers", "workspace", w.id, "err", err)
		return
	}
	w.node.Log.Info("layers merged", "workspace", w.id, "layers", len(layers))
}

// removeLayers removes what another layer hides, when the name of that is on the
// medium, as what it holds is.
func removeLayers(dir string, hidden []string) error {
	if len(hidden) == 0 {
		return nil
	}
	if err := syncPath(dir); err != nil {
		return err
	}
	for _, path := range hidden {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("node: disk: %w", err)
		}
	}
	return nil
}

// disk makes the layers in the directory those that the machine has: one that was
// made but never handed to it goes, as do those that it has merged, and what a
// start in the past left.
func (t *takeover) disk(ctx context.Context) error {
	has, err := t.parts.machine.Drive(ctx, writable)
	if err != nil {
		return err
	}
	layers, err := chain(t.w.dir)
	if err != nil {
		return err
	}
	hidden, ok := hiddenBy(has, layers)
	if !ok {
		return dayfly.Errorf(dayfly.Internal, "its machine has another disk than its directory")
	}
	if m, ok := t.parts.machine.(vmm.Merger); ok && len(hidden) > 0 && len(has.Below) == 1 {
		if err := m.Merge(ctx, writable, 0); err != nil { // its last owner may have died before all was on the medium
			return err
		}
	}
	return errors.Join(removeLayers(t.w.dir, hidden), cutChain(t.w.dir, 1+len(has.Below)), dropChain(t.w.dir))
}

// hiddenBy returns which layers, of those in a directory, lie between what a
// machine has as its drive. It is not ok if that is not among them.
func hiddenBy(has vmm.Drive, layers []string) (hidden []string, ok bool) {
	for len(layers) > 0 && !sameFile(layers[0], has.Path) {
		layers = layers[1:] // which it was never handed
	}
	below := append([]string{has.Path}, has.Below...)
	for _, path := range layers {
		if len(below) > 0 && sameFile(path, below[0]) {
			below = below[1:]
		} else {
			hidden = append(hidden, path)
		}
	}
	lowest := len(layers) > 0 && sameFile(layers[len(layers)-1], append([]string{has.Path}, has.Below...)[len(has.Below)])
	return hidden, len(below) == 0 && lowest
}
