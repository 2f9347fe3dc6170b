package dayfly

import (
	"slices"
	"time"
)

// State is where a workspace is in its life.
type State string

// The states of a workspace.
const (
	Creating State = "creating" // the startup table is being worked through
	Running  State = "running"  // its machine runs and its agent answers
	Paused   State = "paused"   // no machine; its memory and disk are kept, and it goes on where it was
	Stopped  State = "stopped"  // no machine; its disk and key are kept
	Failed   State = "failed"   // its machine ended by itself; Reason says how
	Deleted  State = "deleted"  // nothing is left of it
)

// next is the whole life of a workspace; docs/lifecycle.md is drawn from it.
// Every state but the last may be deleted.
var next = map[State][]State{
	Creating: {Running, Paused, Stopped, Failed, Deleted},
	Running:  {Paused, Stopped, Failed, Deleted},
	Paused:   {Creating, Stopped, Deleted},
	Stopped:  {Creating, Deleted},
	Failed:   {Creating, Paused, Stopped, Deleted},
	Deleted:  nil,
}

// States lists every state in the order of a life.
func States() []State { return []State{Creating, Running, Paused, Stopped, Failed, Deleted} }

// Next lists the states that may follow s.
func (s State) Next() []State { return slices.Clone(next[s]) }

// To returns nil if a workspace may go from s to t, else a Conflict that names both.
func (s State) To(t State) error {
	if slices.Contains(next[s], t) {
		return nil
	}
	return Errorf(Conflict, "a workspace that is %s cannot become %s", s, t)
}

// StartKind says how a workspace came to run. They are never confused.
type StartKind string

// The kinds of start.
const (
	Cold         StartKind = "cold"     // a kernel booted for this workspace
	Restore      StartKind = "restore"  // a template, the snapshot of a booted, empty machine, was restored
	Claim        StartKind = "claim"    // a standby machine, restored ahead of time, was taken
	Resume       StartKind = "resume"   // a paused workspace went on
	FromSnapshot StartKind = "snapshot" // a copy of a workspace's snapshot went on
	Forked       StartKind = "fork"     // a copy of a running workspace went on
)

// Accel is how guest instructions are executed.
type Accel string

// The accelerators. Auto stands for KVM where a guest was proved to run on it,
// else TCG, QEMU's software emulation.
const (
	Auto Accel = "auto"
	KVM  Accel = "kvm"
	TCG  Accel = "tcg"
)

// Workspace is one disposable machine, as callers see it.
type Workspace struct {
	ID        ID        `json:"id"`
	Name      string    `json:"name,omitempty"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it is Failed or Stopped
	Spec      Spec      `json:"spec"`
	Image     Image     `json:"image"`
	Kernel    string    `json:"kernel,omitempty"` // id of the kernel it booted
	StartKind StartKind `json:"start_kind,omitempty"`
	StartNote string    `json:"start_note,omitempty"` // why it was not a faster kind
	Parent    string    `json:"parent,omitempty"`     // workspace or snapshot it is a copy of
	Accel     Accel     `json:"accel,omitempty"`      // what Auto came to
	CreatedAt time.Time `json:"created_at"`
	Timeline  Timeline  `json:"timeline,omitempty"`

	// Of servers.
	Namespace string     `json:"namespace,omitempty"`
	Ready     bool       `json:"ready,omitempty"`      // it runs, and its ready check, if any, has succeeded since
	ExpiresAt *time.Time `json:"expires_at,omitempty"` // when Spec.OnTimeout is done
	UsedAt    *time.Time `json:"used_at,omitempty"`    // the last use that Spec.Idle counts from, to a second or so
	Restarts  int        `json:"restarts,omitempty"`   // in a row, by Spec.Restart
	Exit      *Exit      `json:"exit,omitempty"`       // how the main command last ended
}

// Exit is how a command ended.
type Exit struct {
	Code   int       `json:"code"`             // its exit code, or 128 and the signal's number
	Signal int       `json:"signal,omitempty"` // the number of the signal that ended it
	At     time.Time `json:"at"`
}

// Timeline is what a start consisted of, in order of beginning.
type Timeline []Stage

// Stage is one timed step of a start. Times are milliseconds; At counts from
// the moment the server had read the request.
type Stage struct {
	Name   string  `json:"name"`
	At     float64 `json:"at_ms"`
	Took   float64 `json:"took_ms"`
	Within string  `json:"within,omitempty"` // the stage this one is a part of
}

// Total is the time from the request to the end of the last stage, in milliseconds.
func (t Timeline) Total() float64 {
	var end float64
	for _, s := range t {
		end = max(end, s.At+s.Took)
	}
	return end
}
