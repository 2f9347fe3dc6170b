package wire

import "github.com/dayfly/dayfly"

// FreezeReply says what a freeze stopped.
type FreezeReply struct {
	Processes int `json:"processes"`
}

// Thaw lets processes go on: POST /thaw. It may be repeated.
type Thaw struct {
	Timestamp string `json:"timestamp,omitempty"` // RFC 3339 with nanoseconds: the wall clock to set just before
}

// Clock moves the wall clock: POST /clock.
type Clock struct {
	Forward int64 `json:"forward_ns,omitempty"` // nanoseconds; back if below 0
}

// ClockReply says what the wall clock was after that.
type ClockReply struct {
	Timestamp string `json:"timestamp"` // RFC 3339 with nanoseconds
}

// The identities a copy can go on with.
const (
	IdentitySame = "same" // it takes the place of what it is a copy of
	IdentityNew  = "new"  // both go on
)

// Renew makes a restored copy one of its own before its processes may go on:
// POST /renew. It leaves them frozen.
type Renew struct {
	Generation string `json:"generation"` // id of this copy: 1 to 64 of a-z, 0-9, -
	ID         string `json:"id,omitempty"`
	Hostname   string `json:"hostname,omitempty"`
	Identity   string `json:"identity"` // IdentitySame or IdentityNew

	// DiskKey is for a machine whose disk is at rest (RestPath), in which no
	// process of a user's has run yet: its disk, which another of the same content
	// has replaced, goes on with this key. Its processes are not frozen, and no
	// hook is run.
	DiskKey []byte `json:"disk_key,omitempty"`

	Entropy   []byte `json:"entropy"`   // credited to the kernel's pool, which is reseeded; at least MinEntropy
	Timestamp string `json:"timestamp"` // RFC 3339 with nanoseconds: the wall clock to set

	AccessToken    *string           `json:"accessToken,omitempty"` // nil: as it was; empty clears it
	EnvVars        map[string]string `json:"envVars,omitempty"`     // nil: as they were
	DefaultUser    string            `json:"defaultUser,omitempty"`
	DefaultWorkdir string            `json:"defaultWorkdir,omitempty"`
}

// MinEntropy is how many random bytes a Renew must bring: as many as the state
// of the kernel's generator has (drivers/char/random.c: 256 bits).
const MinEntropy = 32

// Names of the steps of Renew, and of what is confirmed.
const (
	StepFrozen     = "frozen"     // "N processes"
	StepDiskKey    = "disk-key"   // "kept" or "set"
	StepEntropy    = "entropy"    // "N bytes"
	StepClock      = "clock"      // RFC 3339 with nanoseconds
	StepSockets    = "sockets"    // "N dropped"
	StepTokens     = "tokens"     // "set", "none"
	StepHostname   = "hostname"   // the name
	StepMachineID  = "machine-id" // the id; "none" or "link" where the image has no such file of its own
	StepBootID     = "boot-id"    // the id
	StepEnv        = "env"        // "N variables"
	StepGeneration = "generation" // the id
	StepHooks      = "hooks"      // "N run"
)

// RequiredConfirmations are the names a RenewReply must confirm, in the order
// of the steps.
func RequiredConfirmations() []string {
	return []string{StepFrozen, StepDiskKey, StepEntropy, StepClock, StepSockets, StepTokens, StepHostname,
		StepMachineID, StepBootID, StepEnv, StepGeneration, StepHooks}
}

// Confirmation is what an agent says of a step after it was done: what it read
// back.
type Confirmation struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// RenewReply says what Renew did.
type RenewReply struct {
	Confirmed []Confirmation  `json:"confirmed"`
	Timeline  dayfly.Timeline `json:"timeline"` // At counts from when what asks for it arrived
}

// Rehearse is a start on throw-away parts: POST /rehearse. All of it is undone.
type Rehearse struct {
	Init Init     `json:"init"` // Root included
	Argv []string `json:"argv"` // a command that ends by itself, started as by process.Process/Start
}

// RehearseReply says how the rehearsal went.
type RehearseReply struct {
	Timeline dayfly.Timeline `json:"timeline"`  // of Init's steps, the command and the undoing
	ExitCode int             `json:"exit_code"` // of the command
}
