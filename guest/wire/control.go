// Package wire is the in-guest protocol as bytes: what the agent and the host
// say to each other, and the E2B in-guest API (Connect with JSON, and plain
// HTTP) that the agent serves.
//
// It holds messages and their framing, and does no I/O of its own beyond the
// reader or writer it is given. Every limit on input from the other side is a
// constant here. docs/formats/guest.md describes the same from outside.
package wire

import (
	"strings"

	"github.com/dayfly/dayfly"
)

// Routes of the agent that only the host may call; every edge refuses them.
const (
	InitPath     = "/init"     // POST Init -> InitReply
	PoweroffPath = "/poweroff" // POST, no body: stop all processes in order, sync, unmount, power off
	FreezePath   = "/freeze"   // POST, no body -> FreezeReply: no process of the workspace runs any more
	ThawPath     = "/thaw"     // POST Thaw: they go on
	ClockPath    = "/clock"    // POST Clock -> ClockReply: the wall clock is moved, or only read
	RenewPath    = "/renew"    // POST Renew -> RenewReply: a restored copy becomes one of its own
	RestPath     = "/rest"     // POST, no body: the disk is written out and stands still until a Renew with a DiskKey
	RehearsePath = "/rehearse" // POST Rehearse -> RehearseReply: a start on throw-away parts, undone again
)

// MayCall reports whether a route may be called ahead of a session: those that
// stand between a restored machine and its processes.
func MayCall(path string) bool {
	return path == RenewPath || path == ThawPath || path == ClockPath
}

// AgentPort is the port of the in-guest API, as E2B clients know it. A stream
// from the host names the port it wants in its first bytes; see Preamble.
const AgentPort = 49983

// ProtocolVersion is the version of the hail, Hello, Init and the preamble.
const ProtocolVersion = 2

// A stream the host opens inside a session begins with a preamble of 4 bytes:
// ProtocolVersion and the port wanted, each a big-endian uint16. The agent
// answers with one byte, PreambleOK or a reason, before anything else. Ports
// other than AgentPort are ports on the guest's loopback interface.
const (
	PreambleOK      = 0
	PreambleRefused = 1 // nothing listens on that port
	PreambleBad     = 2 // unknown version
)

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
	Former   string              `json:"former,omitempty"`   // host name of the workspace whose disk it is a copy of
	Strays   []string            `json:"strays,omitempty"`   // host names that the disk may have kept of others; what goes with them is theirs, too
	Restored bool                `json:"restored,omitempty"` // the machine is a copy: what its kernel made up at boot is renewed
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

	// DiskSize is how many bytes of the device are the disk; 0: all of them. A
	// machine restored from another one's state still has the size of that one's.
	DiskSize int64 `json:"disk_size,omitempty"`
}

// InitReply says what Init did and how long each part took.
type InitReply struct {
	Timeline  dayfly.Timeline `json:"timeline"`            // At counts from when what asks for it arrived
	Kernel    string          `json:"kernel"`              // what uname -r says
	Confirmed []Confirmation  `json:"confirmed,omitempty"` // what was set, as it was read back
}

// HostName is the host name of a workspace: name where it can be one, else its
// id.
func HostName(name, id string) string {
	const longest = 63
	ok := name != "" && len(name) <= longest && !strings.HasPrefix(name, "-")
	for _, r := range name {
		ok = ok && (r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if ok {
		return name
	}
	return id
}
