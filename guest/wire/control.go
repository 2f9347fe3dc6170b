// Package wire is the in-guest protocol as bytes: what the agent and the host
// say to each other, and the E2B in-guest API (Connect with JSON, and plain
// HTTP) that the agent serves.
//
// It holds messages and their framing, and does no I/O of its own beyond the
// reader or writer it is given. Every limit on input from the other side is a
// constant here. docs/formats/guest.md describes the same from outside.
package wire

import "github.com/dayfly/dayfly"

// Routes of the agent that only the host may call; every edge refuses them.
const (
	InitPath     = "/init"     // POST Init -> InitReply
	PoweroffPath = "/poweroff" // POST, no body: stop all processes in order, sync, unmount, power off
)

// AgentPort is the port of the in-guest API, as E2B clients know it. A stream
// from the host names the port it wants in its first bytes; see Preamble.
const AgentPort = 49983

// ProtocolVersion is the version of Hello, Init and the preamble.
const ProtocolVersion = 1

// A stream the host opens inside a session begins with a preamble of 4 bytes:
// ProtocolVersion and the port wanted, each a big-endian uint16. The agent
// answers with one byte, PreambleOK or a reason, before anything else. Ports
// other than AgentPort are ports on the guest's loopback interface.
const (
	PreambleOK      = 0
	PreambleRefused = 1 // nothing listens on that port
	PreambleBad     = 2 // unknown version
)

// MaxHello bounds the Hello line, newline included.
const MaxHello = 4 << 10

// Hello is the first thing an agent says on a new channel: one line of JSON.
// Whatever precedes it is discarded: a channel may hold the end of a session
// that the host left.
type Hello struct {
	Dayfly int     `json:"dayfly"`    // ProtocolVersion; tells a hello line from stale bytes
	Agent  string  `json:"agent"`     // version of the agent
	Boot   string  `json:"boot"`      // the guest kernel's boot id
	Uptime float64 `json:"uptime_ms"` // milliseconds since the guest's kernel started
	Init   bool    `json:"init"`      // an Init has been carried out already
}

// Init makes an empty VM a workspace: POST /init on the agent's port. The
// fields that E2B's hosts send have E2B's names. It is refused by every edge.
type Init struct {
	// E2B's part.
	AccessToken    string            `json:"accessToken,omitempty"` // clients must send it as X-Access-Token; empty clears it
	EnvVars        map[string]string `json:"envVars,omitempty"`     // for every process
	Timestamp      string            `json:"timestamp,omitempty"`   // RFC 3339 with nanoseconds: the wall clock to set
	DefaultUser    string            `json:"defaultUser,omitempty"`
	DefaultWorkdir string            `json:"defaultWorkdir,omitempty"`

	// Dayfly's part. Root and Disk are acted on once, by the first Init.
	ID       string              `json:"id,omitempty"`
	Hostname string              `json:"hostname,omitempty"`
	Entropy  []byte              `json:"entropy,omitempty"` // credited to the kernel's pool
	Config   *dayfly.ImageConfig `json:"config,omitempty"`
	Root     *Root               `json:"root,omitempty"`
}

// Root says what a workspace's file system is put together from.
type Root struct {
	Image   string `json:"image"`              // device of the read-only root, such as /dev/vda
	Disk    string `json:"disk"`               // device of the private disk, such as /dev/vdb
	DiskKey []byte `json:"disk_key,omitempty"` // 64 bytes for AES-256-XTS; empty: the disk is not encrypted
}

// InitReply says what Init did and how long each part took.
type InitReply struct {
	Timeline dayfly.Timeline `json:"timeline"` // At counts from the start of Init
	Kernel   string          `json:"kernel"`   // what uname -r says
}
