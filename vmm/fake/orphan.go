package fake

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// orphans are the machines of this process that are to outlive their owners, by
// directory: what /proc is to real ones.
var (
	orphansMu sync.Mutex
	orphans   = map[string]*vm{}
)

func (v *vm) list() {
	orphansMu.Lock()
	defer orphansMu.Unlock()
	orphans[filepath.Clean(v.config.Dir)] = v
}

func (v *vm) unlist() {
	orphansMu.Lock()
	defer orphansMu.Unlock()
	if dir := filepath.Clean(v.config.Dir); orphans[dir] == v {
		delete(orphans, dir)
	}
}

// Adopt takes over a machine that was launched as an orphan.
func (d *Driver) Adopt(ctx context.Context, c vmm.Config) (vmm.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	orphansMu.Lock()
	v := orphans[filepath.Clean(c.Dir)]
	orphansMu.Unlock()
	if v == nil || v.config.ID != c.ID {
		return nil, dayfly.Errorf(dayfly.NotFound, "no such machine runs any more")
	}
	m, err := d.hold(v)
	if err != nil {
		return nil, err
	}
	return m, nil
}

var errKilled = errors.New("fake: the driver was killed")

// Kill lets the driver die as a process does: its machines have no owner any
// more, its connections end, what is not an orphan ends, and nothing of it works
// or is told of anything. Its machines are still to be closed.
func (d *Driver) Kill() {
	d.mu.Lock()
	d.killed = true
	var owned []*machine
	for m := range d.owned {
		owned = append(owned, m)
	}
	d.mu.Unlock()
	for _, m := range owned {
		m.dead.Store(true)
		if !m.config.Orphan {
			m.end(errCrash)
		}
		m.leave()
		<-m.free
	}
}

// Orphans lists the machines that were launched as orphans, in dir or below it,
// by the numbers that PID returns.
func Orphans(_ context.Context, dir string) ([]int, error) {
	var pids []int
	for _, v := range below(dir) {
		pids = append(pids, v.pid)
	}
	return pids, nil
}

// KillOrphans ends what Orphans lists.
func KillOrphans(_ context.Context, dir string) error {
	for _, v := range below(dir) {
		v.end(errCrash)
		<-v.done
	}
	return nil
}

func below(dir string) (all []*vm) {
	orphansMu.Lock()
	defer orphansMu.Unlock()
	for of, v := range orphans {
		if of == filepath.Clean(dir) || strings.HasPrefix(of, filepath.Clean(dir)+"/") {
			all = append(all, v)
		}
	}
	return all
}
