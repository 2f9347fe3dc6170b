package agent

import (
	"bytes"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// metrics is the machine's use of resources, with E2B's names. Sizes are bytes.
type metrics struct {
	Time      int64   `json:"ts"` // unix seconds
	CPUs      int     `json:"cpu_count"`
	CPUUsed   float64 `json:"cpu_used_pct"` // of all CPUs, since the last request; the first time since boot
	MemTotal  uint64  `json:"mem_total"`
	MemUsed   uint64  `json:"mem_used"` // without caches
	MemCache  uint64  `json:"mem_cache"`
	DiskUsed  uint64  `json:"disk_used"` // of the root file system
	DiskTotal uint64  `json:"disk_total"`
}

func (a *Agent) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	m := metrics{Time: time.Now().Unix()}
	if stat, err := os.ReadFile("/proc/stat"); err == nil {
		m.CPUs, m.CPUUsed = a.cpu.read(stat)
	}
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		m.readMemory(info)
	}
	var fs syscall.Statfs_t
	if syscall.Statfs("/", &fs) == nil {
		m.DiskTotal = fs.Blocks * uint64(fs.Bsize)
		m.DiskUsed = (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, m)
}

// readMemory reads /proc/meminfo, whose values are in KiB (proc_meminfo(5)).
func (m *metrics) readMemory(info []byte) {
	kib := map[string]uint64{}
	for line := range bytes.Lines(info) {
		name, rest, _ := strings.Cut(string(line), ":")
		if f := strings.Fields(rest); len(f) > 0 {
			kib[name], _ = strconv.ParseUint(f[0], 10, 54)
		}
	}
	m.MemTotal = kib["MemTotal"] << 10
	m.MemCache = (kib["Cached"] + kib["SReclaimable"] + kib["Buffers"]) << 10
	if free := kib["MemFree"]<<10 + m.MemCache; free < m.MemTotal {
		m.MemUsed = m.MemTotal - free
	}
}

// cpuMeter measures between two readings of /proc/stat.
type cpuMeter struct {
	mu          sync.Mutex
	busy, total uint64 // ticks at the last reading
	last        float64
}

// read returns the number of CPUs and how busy they were, in percent of all.
func (c *cpuMeter) read(stat []byte) (cpus int, used float64) {
	var ticks [10]uint64 // user nice system idle iowait irq softirq steal guest guest_nice (proc_stat(5))
	for line := range bytes.Lines(stat) {
		f := strings.Fields(string(line))
		if len(f) == 0 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		if f[0] != "cpu" {
			cpus++
			continue
		}
		for i := range min(len(ticks), len(f)-1) {
			ticks[i], _ = strconv.ParseUint(f[i+1], 10, 63)
		}
	}
	var total uint64
	for _, t := range ticks[:8] { // guest time is part of user time
		total += t
	}
	busy := total - ticks[3] - ticks[4]
	c.mu.Lock()
	defer c.mu.Unlock()
	if total > c.total && busy >= c.busy {
		c.last = math.Round(float64(busy-c.busy)/float64(total-c.total)*1e4) / 100
		c.busy, c.total = busy, total
	}
	return cpus, c.last
}
