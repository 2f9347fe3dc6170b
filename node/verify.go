package node

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/snapshot"
)

// verifyAtOnce is how many bytes of disk layers are compared with their digests
// before a machine goes on from them, which takes some 30 ms. What is more is
// compared while it runs already: no start waits for the size of a disk.
const verifyAtOnce = 64 << 20

// load fills the memory from the generation, and looks whether its disk is whole
// if that is quick.
func (s *start) load(ctx context.Context) error {
	gen, f := s.origin.gen, s.parts.memory
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return gen.LoadRAM(ctx, f) })
	if s.origin.quick() {
		g.Go(func() error { return gen.VerifyDisks(ctx) })
	}
	return g.Wait()
}

// quick reports whether the disk is verified at once.
func (o *origin) quick() bool {
	var bytes int64
	for _, d := range o.gen.Manifest().Disks {
		bytes += d.Allocated
	}
	return bytes <= verifyAtOnce
}

// verifyBehind compares the disk of a generation while the workspace runs.
// It takes the generation over.
func (w *workspace) verifyBehind(gen *snapshot.Generation) {
	ctx, stop := context.WithCancel(context.Background())
	w.unverify = stop
	w.behind.Go(func() {
		defer gen.Close()
		defer stop()
		if err := gen.VerifyDisks(ctx); err != nil && ctx.Err() == nil {
			w.damaged <- err // there is room for one, and one at a time is under way
		}
	})
}

// settled waits for the work behind, so that nothing new is made of a disk that
// turns out to be damaged.
func (w *workspace) settled() error {
	w.behind.Wait()
	select {
	case err := <-w.damaged:
		w.condemn(err)
		return err
	default:
		return nil
	}
}

// abandon ends the work behind, as its outcome is of no interest any more.
func (w *workspace) abandon() {
	if w.unverify != nil {
		w.unverify()
	}
	w.behind.Wait()
	select {
	case <-w.damaged: //nolint:errcheck // of a disk that nobody goes on from
	default:
	}
}

// condemn ends a workspace that went on from a damaged disk.
func (w *workspace) condemn(damage error) {
	w.node.Log.Error("workspace went on from a damaged disk", "workspace", w.id, "err", damage)
	if w.state() != dayfly.Running {
		return
	}
	if err := w.teardown(); err != nil {
		w.node.Log.Error("tear-down of a damaged workspace", "workspace", w.id, "err", err)
	}
	if err := w.become(dayfly.Failed, func(ws *dayfly.Workspace) { ws.Reason = "it went on from a damaged disk: " + firstLine(damage) }); err != nil {
		w.node.Log.Error("record of a damaged workspace", "workspace", w.id, "err", err)
	}
}
