package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
)

// Use is what a workspace takes of the host.
type Use struct {
	CPU    time.Duration // since Since
	Memory int64         // bytes, as a proportional set size
	Disk   int64         // bytes of blocks
	Since  time.Time     // when its machine began
}

// guestMetrics is the answer of a guest's agent.
type guestMetrics struct {
	CPUUsed   float64 `json:"cpu_used_pct"`
	MemTotal  int64   `json:"mem_total"`
	MemUsed   int64   `json:"mem_used"`
	DiskUsed  int64   `json:"disk_used"`
	DiskTotal int64   `json:"disk_total"`
}

// metricsTimeout is how long a busy guest is waited for.
const metricsTimeout = 5 * time.Second

// maxMetrics bounds what a guest may answer.
const maxMetrics = 64 << 10

// Metrics returns what a workspace uses now. Looking is no use of it. One without
// a machine has a disk only.
func (c *Control) Metrics(ctx context.Context, id dayfly.ID) (dayfly.Metrics, error) {
	k, err := c.find(ctx, id)
	if err != nil {
		return dayfly.Metrics{}, err
	}
	ws := k.view.Load()
	m := dayfly.Metrics{
		At: c.now(), CPUs: ws.Spec.CPUs, MemoryBytes: int64(ws.Spec.MemoryMiB) << 20, DiskBytes: int64(ws.Spec.DiskMiB) << 20,
	}
	if c.opt.HostUse != nil {
		use, err := c.opt.HostUse(ctx, id)
		if err != nil {
			return dayfly.Metrics{}, err
		}
		m.CPUSeconds, m.HostMemory, m.HostDisk = use.CPU.Seconds(), use.Memory, use.Disk
		if !use.Since.IsZero() {
			m.UptimeS = max(0, m.At.Sub(use.Since).Seconds())
		}
	}
	if ws.State != dayfly.Running {
		return m, nil
	}
	g, err := c.askMetrics(ctx, id)
	if err != nil {
		return m, nil //nolint:nilerr // a guest that does not answer hides its own side only
	}
	m.CPUPercent, m.MemoryUsed, m.DiskUsed = min(max(g.CPUUsed, 0), 100), max(g.MemUsed, 0), max(g.DiskUsed, 0)
	return m, nil
}

func (c *Control) askMetrics(ctx context.Context, id dayfly.ID) (guestMetrics, error) {
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	g := c.guest(id)
	defer g.close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.Base+"/metrics", nil)
	if err != nil {
		return guestMetrics{}, err
	}
	answer, err := g.HTTP.Do(req)
	if err != nil {
		return guestMetrics{}, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return guestMetrics{}, fmt.Errorf("control: guest metrics: status %d", answer.StatusCode)
	}
	var m guestMetrics
	return m, json.NewDecoder(io.LimitReader(answer.Body, maxMetrics)).Decode(&m)
}

// counters count since the process began.
type counters struct {
	failed      atomic.Int64
	storeErrors atomic.Int64
}

// Stats are the counters and gauges of a Control.
type Stats struct {
	Workspaces  map[dayfly.State]int
	Starting    int   // starts that have a place
	Waiting     int   // starts that wait for one
	Refused     int64 // starts for which there was no room to wait
	Failed      int64 // starts that failed
	StoreErrors int64 // answers of the store that were Unavailable or Internal
}

// Stats returns them as they are now.
func (c *Control) Stats() Stats {
	s := Stats{Workspaces: map[dayfly.State]int{}, Failed: c.count.failed.Load(), StoreErrors: c.count.storeErrors.Load()}
	s.Starting, s.Waiting, s.Refused = c.gate.load()
	for _, st := range dayfly.States() {
		s.Workspaces[st] = 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keeper {
		s.Workspaces[k.view.Load().State]++
	}
	delete(s.Workspaces, dayfly.Deleted)
	return s
}

// counted counts errors of the store.
func (c *Control) counted(err error) error {
	switch dayfly.KindOf(err) {
	case dayfly.Unavailable, dayfly.Internal:
		c.count.storeErrors.Add(1)
	}
	return err
}
