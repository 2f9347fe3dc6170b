// Package snapshot keeps generations: RAM, device state and disk layers of one
// virtual machine at one instant, in one directory, under one manifest.
//
// It leaves to others how a machine is paused, where generations lie and which
// of them are kept. Everything is encrypted and authenticated with the
// workspace's key; disk layers are ciphertext already and are linked, not
// copied. A generation is committed by one rename after everything in it has
// been flushed: it opens whole or it does not open. Nothing that was read is
// handed on before it has been authenticated. docs/formats/snapshot.md
// describes the bytes.
//
//	.new-ID-… ──Commit──▶ ID/manifest.json, ram, state, disk.0, …
//	    │                  │
//	  Abort              Remove: the manifest first
//	    ▼                  ▼
//	 nothing ◀──Sweep── what a killed process left of either
package snapshot

import (
	"encoding/json"
	"errors"
	"time"
)

// PageSize is the unit of RAM, in bytes.
const PageSize = 4096

// What is wrong with a generation that does not open or load, for errors.Is.
var (
	ErrDamaged  = errors.New("the generation is damaged") // accident or forgery; the message names the file
	ErrWrongKey = errors.New("written with another key")  // the manifest is whole; this key cannot open it
	ErrNewer    = errors.New("made by a newer release")   // this one cannot read the format
)

// Formats of disk layers.
const (
	Raw   = "raw"
	Qcow2 = "qcow2"
)

// Extent is a run of bytes of RAM. Both are multiples of PageSize.
type Extent struct{ Off, Len int64 }

// Machine is what the state of a generation can be loaded into.
type Machine struct {
	VMM        string `json:"vmm"`
	VMMVersion string `json:"vmm_version"`
	Accel      string `json:"accel"`
	CPUModel   string `json:"cpu_model"`
	Kernel     string `json:"kernel"`
	CPUs       int    `json:"cpus"`
	MemoryMiB  int    `json:"memory_mib"`
}

// Meta is the part of a manifest that the caller fills. All of it is
// authenticated and none of it is encrypted.
type Meta struct {
	ID        string          `json:"id"` // of the generation: 1 to 64 of a-z, 0-9 and -
	CreatedAt time.Time       `json:"created_at"`
	Machine   Machine         `json:"machine"`
	Config    json.RawMessage `json:"config,omitempty"` // the caller's, at most 1 MiB; loses its insignificant white space
}

// Manifest says what a generation holds.
type Manifest struct {
	Meta
	RAM   RAMInfo `json:"ram"`
	State int64   `json:"state"` // plain size in bytes
	Disks []Disk  `json:"disks,omitempty"`
}

// RAMInfo describes the memory of a generation.
type RAMInfo struct {
	Size   int64 `json:"size"`   // of the machine's RAM, in bytes
	Stored int64 `json:"stored"` // bytes of pages that are not zero and so are kept
	Chunks int   `json:"chunks"`
}

// Disk is one layer of the machine's disk. Its bytes are the caller's; what
// they are encrypted with and how layers lie on each other is not known here.
type Disk struct {
	Name      string `json:"name"`      // of the file in the generation: disk.0, disk.1, …
	Size      int64  `json:"size"`      // of the file, holes included
	Allocated int64  `json:"allocated"` // bytes it took when it was committed
	Format    string `json:"format"`    // Raw or Qcow2
	Digest    string `json:"digest"`    // keyed, of size and content, the same whatever lies in holes
}
