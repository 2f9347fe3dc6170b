package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

var _ vmm.Merger = (*machine)(nil)

// Merge is QEMU's job "stream": what it has copied stays copied when it ends
// early, as a layer may hold what those below it hold.
func (m *machine) Merge(ctx context.Context, i int, speed int64) error {
	d, err := m.beginMerge(i)
	if err != nil {
		return err
	}
	loose, err := m.stream(ctx, d, i, speed)
	m.blocks.Lock()
	defer m.blocks.Unlock()
	m.merging, m.drives[i].loose = false, loose
	if loose {
		return err
	}
	ctx = context.WithoutCancel(ctx) // what was merged is to be settled
	if settled := m.settle(ctx, i); settled != nil || len(m.drives[i].Below) > 1 {
		return errors.Join(err, settled)
	}
	return m.flush(ctx, m.drives[i])
}

// beginMerge keeps all else that changes drives, or relies on them, away.
func (m *machine) beginMerge(i int) (attached, error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if i < 0 || i >= len(m.drives) || m.drives[i].ReadOnly {
		return attached{}, noWritable(i)
	}
	if m.merging {
		return attached{}, errMerging()
	}
	m.merging = true
	return m.drives[i], nil
}

func noWritable(i int) error {
	return dayfly.Errorf(dayfly.Invalid, "the machine has no writable drive %d", i)
}

func errMerging() error {
	return dayfly.Errorf(dayfly.Conflict, "layers of the machine's drive are being merged: try again when that has ended")
}

// unmerging refuses what needs drives that nobody but the guest writes to. The
// caller holds blocks.
func (m *machine) unmerging() error {
	for _, d := range m.drives {
		if m.merging || d.loose {
			return errMerging()
		}
	}
	return nil
}

func mergeJob(i int) string { return "merge-" + driveNode(i) }

// stream has the job run to its end. It is loose if its end was not seen.
//
// The job is one that QEMU forgets by itself: while one is there that has come to
// its end, QEMU 10.0 crashes where it is asked for its block nodes.
func (m *machine) stream(ctx context.Context, d attached, i int, speed int64) (loose bool, err error) {
	job := mergeJob(i)
	if d.loose {
		if err := m.endJob(ctx, job); err != nil {
			return true, err
		}
	}
	if len(d.Below) < 2 {
		return false, nil
	}
	m.jobFailed.Store(nil)
	err = m.ask(ctx, "block-stream", map[string]any{
		"job-id": job, "device": d.node, "base-node": d.base, "speed": speed, "on-error": "report",
		"backing-file": "", // else the layer would name the one below it
	}, nil)
	if err != nil && ctx.Err() == nil {
		return false, err // else it may have begun
	}
	if err = m.awaitJob(ctx, job); err != nil {
		over := m.endJob(context.WithoutCancel(ctx), job)
		return over != nil, errors.Join(err, over)
	}
	if why := m.jobFailed.Load(); why != nil {
		return false, jobError(*why)
	}
	return false, nil
}

// jobError gives a full disk its meaning.
func jobError(said string) error {
	if strings.Contains(strings.ToLower(said), unix.ENOSPC.Error()) {
		return fmt.Errorf("qemu: merge: %w", unix.ENOSPC)
	}
	return fmt.Errorf("qemu: merge: %.200q", said)
}

// awaitJob waits until there is no such job any more.
func (m *machine) awaitJob(ctx context.Context, job string) error {
	for {
		var jobs []struct{ ID string }
		if err := m.ask(ctx, "query-jobs", nil, &jobs); err != nil {
			return err
		}
		there := false
		for _, j := range jobs {
			there = there || j.ID == job
		}
		if !there {
			return nil
		}
		select {
		case <-m.jobs: // one has changed
		case <-m.done:
			return m.conflict()
		case <-m.mon.ended:
			return errMonitorClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// endJob ends a job, if there is one, and waits until it is gone.
func (m *machine) endJob(ctx context.Context, job string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("qemu: a job did not end within %s", answerLimit))
	defer cancel()
	// That it cannot be cancelled says that it is not there, or about to end.
	if err := m.mon.execute(ctx, "job-cancel", map[string]string{"id": job}, nil); err != nil {
		var no *qmpError
		if !errors.As(err, &no) {
			return err
		}
	}
	return m.awaitJob(ctx, job)
}

// settle learns from QEMU whether a drive's layers have been merged, and has it
// close those that are in use no more. The caller holds blocks.
func (m *machine) settle(ctx context.Context, i int) error {
	d := &m.drives[i]
	if len(d.Below) > 1 {
		roots, err := m.roots(ctx)
		if err != nil {
			return err
		}
		if depth, ok := roots[d.node]; !ok || depth != 1 {
			return nil // as it was
		}
		d.stale = append(d.stale, d.owned...)
		d.owned, d.Below = nil, d.Below[len(d.Below)-1:]
	}
	return m.dropStale(ctx, i)
}

// roots are the uppermost nodes of the drives, and how many lie below each.
func (m *machine) roots(ctx context.Context) (map[string]int, error) {
	var devices []struct {
		Inserted struct {
			Node  string `json:"node-name"`
			Depth int    `json:"backing_file_depth"`
		}
	}
	if err := m.ask(ctx, "query-block", nil, &devices); err != nil {
		return nil, err
	}
	roots := map[string]int{}
	for _, d := range devices {
		roots[d.Inserted.Node] = d.Inserted.Depth
	}
	return roots, nil
}

// dropStale closes the nodes that nothing lies over any more, the uppermost
// first, and what QEMU was handed for them. The caller holds blocks.
func (m *machine) dropStale(ctx context.Context, i int) error {
	d := &m.drives[i]
	if len(d.stale) == 0 {
		return nil
	}
	for len(d.stale) > 0 {
		if err := m.dropNode(ctx, d.stale[0]); err != nil {
			return err
		}
		d.stale = d.stale[1:]
	}
	sets, err := m.fdSets(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{"": true} // which is handed for a moment only
	for _, d := range m.drives {
		used[d.Path] = true
		for _, path := range d.Below {
			used[path] = true
		}
	}
	for id, path := range sets {
		if !used[path] {
			err = errors.Join(err, m.takeBack(ctx, id))
		}
	}
	return err
}

// flush has QEMU write out what it holds of an uppermost layer, its tables
// included: opening it again as it is does that, and fails if that fails.
func (m *machine) flush(ctx context.Context, d attached) error {
	if len(d.Below) == 0 {
		return nil
	}
	node := map[string]any{
		"driver": "qcow2", "node-name": d.node, "file": fileNode(d.node), "backing": d.base,
		"read-only": false, "discard": "unmap",
	}
	return m.ask(ctx, "blockdev-reopen", map[string]any{"options": []any{node}}, nil)
}
