package dayfly

import (
	"maps"
	"time"
)

// Query selects workspaces. Zero fields select all.
type Query struct {
	Namespace string
	States    []State
	Name      string            // exactly
	Image     string            // as in the Spec, exactly
	Metadata  map[string]string // all of these
	Order     Order
	Cursor    string // of the page before
	Limit     int    // default DefaultPage, at most MaxPage
}

// Sizes of a page.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Order is how a list is sorted.
type Order string

// The orders. Pages stay whole while workspaces come and go: what is there from
// the first page to the last is listed once. By name, it is listed by the name of
// the time of the first page, for a day.
const (
	NewestFirst Order = "newest" // by CreatedAt, then id; the default
	OldestFirst Order = "oldest"
	ByName      Order = "name"
)

// Page is a part of a list.
type Page struct {
	Workspaces []Workspace `json:"workspaces"`
	Next       string      `json:"next,omitempty"` // cursor of the next page; empty: this is the last
}

// EventQuery selects events in the order of Seq. Zero fields select all.
type EventQuery struct {
	Namespace string
	Workspace ID
	Types     []EventType
	After     int64 // Seq
	Limit     int   // default DefaultPage, at most MaxPage
}

// AuditQuery selects audit entries, newest first.
type AuditQuery struct {
	Namespace string
	Before    int64 // Seq; 0: from the newest
	Limit     int   // default DefaultPage, at most MaxPage
}

// CreateOptions are how a workspace is to be made. The zero value waits until it
// is ready.
type CreateOptions struct {
	Wait Wait

	// Once, unless empty, makes a request that is repeated with the same Once,
	// within a day and in the same namespace, return what the first one made.
	Once string
}

// Wait says what a creation is to wait for.
type Wait string

// What can be waited for.
const (
	WaitReady   Wait = "ready"   // it runs and its ready check, if any, has succeeded; a start that fails leaves nothing
	WaitCreated Wait = "created" // its record is durable; it starts, or fails, by itself
)

// Update changes a workspace. Nil fields stay as they are.
type Update struct {
	Name      *string           `json:"name,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`  // replaces all of it; empty, not null: none
	Timeout   *int              `json:"timeout_s,omitempty"` // counts from now; 0: never
	OnTimeout *Action           `json:"on_timeout,omitempty"`
	Keep      *bool             `json:"keep,omitempty"`
	Idle      *Idle             `json:"idle,omitempty"`
	Restart   *Restart          `json:"restart,omitempty"`

	// Resources take effect with the next start. A disk can only grow.
	CPUs      *int `json:"cpus,omitempty"`
	MemoryMiB *int `json:"memory_mib,omitempty"`
	DiskMiB   *int `json:"disk_mib,omitempty"`
	Apply     bool `json:"apply,omitempty"` // stop and start a running workspace now, so that they do
}

// Of returns s with what u names in place of what it had. Whether that can be is
// for Normal to say.
func (u Update) Of(s Spec) Spec {
	set(&s.Name, u.Name)
	set(&s.Timeout, u.Timeout)
	set(&s.OnTimeout, u.OnTimeout)
	set(&s.Keep, u.Keep)
	set(&s.Idle, u.Idle)
	set(&s.Restart, u.Restart)
	set(&s.CPUs, u.CPUs)
	set(&s.MemoryMiB, u.MemoryMiB)
	set(&s.DiskMiB, u.DiskMiB)
	if u.Metadata != nil {
		s.Metadata = maps.Clone(u.Metadata)
	}
	return s
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// LogQuery selects a part of a workspace's log.
type LogQuery struct {
	Source LogSource
	Tail   int  // lines from the end; 0: all that is kept
	Follow bool // go on with what comes, until the workspace is gone
}

// LogSource is what wrote a log.
type LogSource string

// The sources of logs.
const (
	BootLog    LogSource = "boot"    // the guest's kernel and init: its console
	CommandLog LogSource = "command" // the main command's output, both streams
)

// Metrics are what a workspace uses at a moment.
type Metrics struct {
	At          time.Time `json:"at"`
	CPUs        int       `json:"cpus"`
	CPUSeconds  float64   `json:"cpu_s"`        // of the host's, since the machine began
	CPUPercent  float64   `json:"cpu_percent"`  // of all its CPUs, as the guest sees it
	MemoryBytes int64     `json:"memory_bytes"` // RAM of the machine
	MemoryUsed  int64     `json:"memory_used"`  // of it, as the guest sees it
	HostMemory  int64     `json:"host_memory"`  // what the machine takes of the host's: its proportional set size
	DiskBytes   int64     `json:"disk_bytes"`   // size of the disk
	DiskUsed    int64     `json:"disk_used"`    // as the guest sees it
	HostDisk    int64     `json:"host_disk"`    // blocks that the disk takes on the host
	UptimeS     float64   `json:"uptime_s"`     // since the machine began
}
