package dayfly

import "time"

// Event is something that happened to a workspace. Seq is unique and grows; a
// reader that has seen one has seen all below it of its namespace.
type Event struct {
	Seq       int64     `json:"seq"`
	ID        string    `json:"id"` // the same for every delivery of it
	Type      EventType `json:"type"`
	At        time.Time `json:"at"`
	Namespace string    `json:"namespace"`
	Workspace ID        `json:"workspace"`
	State     State     `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Exit      *Exit     `json:"exit,omitempty"`  // of WorkspaceExited
	Actor     string    `json:"actor,omitempty"` // id of the key that asked for it; empty: a rule, the host's user, or the workspace itself
}

// EventType says what happened.
type EventType string

// The types of event. WorkspaceDeleted is the last of a workspace.
const (
	WorkspaceCreated   EventType = "workspace.created" // its record is durable; it starts
	WorkspaceRunning   EventType = "workspace.running"
	WorkspaceReady     EventType = "workspace.ready"
	WorkspacePaused    EventType = "workspace.paused"
	WorkspaceStopped   EventType = "workspace.stopped"
	WorkspaceFailed    EventType = "workspace.failed"
	WorkspaceUpdated   EventType = "workspace.updated"   // metadata, resources or rules
	WorkspaceExited    EventType = "workspace.exited"    // its main command ended
	WorkspaceRestarted EventType = "workspace.restarted" // its restart policy starts it, or its command, again
	WorkspaceDeleted   EventType = "workspace.deleted"
	SnapshotCreated    EventType = "snapshot.created"
	SnapshotDeleted    EventType = "snapshot.deleted"
)

// EventTypes lists every type.
func EventTypes() []EventType {
	return []EventType{
		WorkspaceCreated, WorkspaceRunning, WorkspaceReady, WorkspacePaused, WorkspaceStopped, WorkspaceFailed,
		WorkspaceUpdated, WorkspaceExited, WorkspaceRestarted, WorkspaceDeleted, SnapshotCreated, SnapshotDeleted,
	}
}

// Webhook is a URL that events are sent to.
type Webhook struct {
	ID        string      `json:"id"`
	Namespace string      `json:"namespace"` // whose events; empty: all, for admins
	URL       string      `json:"url"`
	Types     []EventType `json:"types,omitempty"` // empty: all
	Active    bool        `json:"active"`
	CreatedAt time.Time   `json:"created_at"`

	// Secret signs what is sent. It is in the answer to its making only.
	Secret string `json:"secret,omitempty"`
}

// Delivery is one event on its way to one webhook.
type Delivery struct {
	Webhook  string     `json:"webhook"`
	Event    Event      `json:"event"`
	Attempts int        `json:"attempts"`
	Status   int        `json:"status,omitempty"` // of the last answer; 0: there was none
	Error    string     `json:"error,omitempty"`
	DoneAt   *time.Time `json:"done_at,omitempty"` // delivered
	NextAt   *time.Time `json:"next_at,omitempty"` // else: the next attempt; neither: given up
	SentAt   *time.Time `json:"sent_at,omitempty"` // the last attempt
}

// AuditEntry is one change that somebody asked for.
type AuditEntry struct {
	Seq       int64     `json:"seq"`
	At        time.Time `json:"at"`
	Key       string    `json:"key,omitempty"` // empty: the host's own user
	Namespace string    `json:"namespace,omitempty"`
	From      string    `json:"from"`   // address
	Action    string    `json:"action"` // method and route, such as "POST /v1/workspaces"
	Target    string    `json:"target,omitempty"`
	Status    int       `json:"status"` // of the answer
	Request   string    `json:"request"`
}
