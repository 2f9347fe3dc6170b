package dayfly

import (
	"strings"
	"time"
)

// Namespace is a set of workspaces with limits of its own. Those of others do
// not exist for whoever is bound to it.
type Namespace struct {
	Name      string            `json:"name"`
	CreatedAt time.Time         `json:"created_at"`
	Suspended bool              `json:"suspended,omitempty"` // nothing can be started or made in it
	Limits    Limits            `json:"limits"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

// Limits bound what a namespace holds. 0: no limit.
type Limits struct {
	Workspaces int `json:"workspaces,omitempty"` // in any state
	Running    int `json:"running,omitempty"`    // running or starting
	CPUs       int `json:"cpus,omitempty"`       // of those that run or start, in total
	MemoryMiB  int `json:"memory_mib,omitempty"` // likewise
	DiskMiB    int `json:"disk_mib,omitempty"`   // of all, in total, as if the disks were full

	WorkspaceCPUs      int `json:"workspace_cpus,omitempty"` // of each one
	WorkspaceMemoryMiB int `json:"workspace_memory_mib,omitempty"`
	WorkspaceDiskMiB   int `json:"workspace_disk_mib,omitempty"`
}

// Amounts are what a namespace holds at a moment, counted as Limits are.
type Amounts struct {
	Workspaces int `json:"workspaces"`
	Running    int `json:"running"`
	CPUs       int `json:"cpus"`
	MemoryMiB  int `json:"memory_mib"`
	DiskMiB    int `json:"disk_mib"`
}

// Quota is what a namespace may hold and does.
type Quota struct {
	Namespace string  `json:"namespace"`
	Limits    Limits  `json:"limits"`
	Used      Amounts `json:"used"`
}

// CheckNamespace returns an Invalid error for a name a namespace cannot have.
func CheckNamespace(name string) error {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-'
	if !ok || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return Errorf(Invalid, "namespace %q: use 1 to 63 lower-case letters, digits and dashes, none at either end", name)
	}
	return nil
}

// Key is an API key, without its secret.
type Key struct {
	ID        string     `json:"id"`
	Name      string     `json:"name,omitempty"`
	Namespace string     `json:"namespace,omitempty"` // what it is bound to; empty: an admin's
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	RevokedAt *time.Time `json:"revoked_at,omitempty"`
	UsedAt    *time.Time `json:"used_at,omitempty"` // last use, to a minute
}

// Valid reports whether the key opens anything at a moment.
func (k Key) Valid(now time.Time) bool {
	return k.RevokedAt == nil && (k.ExpiresAt == nil || now.Before(*k.ExpiresAt))
}

// Token is a short-lived right to use one workspace, for browsers and agents.
type Token struct {
	Token     string    `json:"token"`
	Workspace ID        `json:"workspace"`
	ExpiresAt time.Time `json:"expires_at"`
}

// MaxTokenLife bounds the life of a Token.
const MaxTokenLife = 24 * time.Hour
