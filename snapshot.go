package dayfly

import (
	"strings"
	"time"
)

// Snapshot is a workspace at one instant, kept to start others from: its
// memory, its disk and what it was made of. It outlives the workspace.
type Snapshot struct {
	ID        ID        `json:"id"`
	Name      string    `json:"name,omitempty"` // unique on a host, or empty
	Workspace ID        `json:"workspace"`      // the one it was taken of
	CreatedAt time.Time `json:"created_at"`
	Spec      Spec      `json:"spec"`
	Image     Image     `json:"image"`
	Kernel    string    `json:"kernel"`
	Accel     Accel     `json:"accel"`
	RAMBytes  int64     `json:"ram_bytes"`  // stored, encrypted
	DiskBytes int64     `json:"disk_bytes"` // of its disk layers; others may share them
	FreeBytes int64     `json:"free_bytes"` // what deleting it gives back
	PausedMS  float64   `json:"paused_ms"`  // how long the workspace stood still for it
}

// MaxFork bounds the children of one fork.
const MaxFork = 100

// PreviousPause is, in the place of a snapshot, the pause of a workspace before
// its last one. It is there until the last one has been resumed.
const PreviousPause = "previous"

// CheckSnapshotName returns an Invalid error for a name a snapshot cannot have.
// The empty name is none, which is fine.
func CheckSnapshotName(name string) error {
	if len(name) > maxNameLen || strings.ContainsFunc(name, isControl) || strings.ContainsAny(name, "/ ") {
		return Errorf(Invalid, "snapshot name %q: use at most %d printable bytes without spaces and slashes", name, maxNameLen)
	}
	if name == PreviousPause {
		return Errorf(Invalid, "snapshot name %q means the pause before the last one: choose another", name)
	}
	if _, err := ParseID(name); err == nil {
		return Errorf(Invalid, "snapshot name %q looks like an id: choose another", name)
	}
	return nil
}

// Usage is what one kind of thing takes on the host's disk.
type Usage struct {
	Kind        string `json:"kind"` // images, kernels, templates, workspaces, snapshots, seeds
	Count       int    `json:"count"`
	Bytes       int64  `json:"bytes"`
	Reclaimable int64  `json:"reclaimable_bytes"` // what Prune would give back
}
