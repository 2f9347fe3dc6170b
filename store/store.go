// Package store remembers what a server must not forget: workspaces,
// namespaces, keys, snapshots' owners, events, webhooks and their deliveries,
// and who changed what. It is SQL: SQLite in a file, or PostgreSQL, with one set
// of statements and one of migrations.
//
// It decides only what needs a transaction to decide: whether a quota has room,
// whether a name is taken, whether a request was made before. Always true: what a
// method has done without an error is durable; a record and the events about it
// are written together or not at all; the limits of a namespace hold for what is
// stored at any moment, whoever writes at the same time.
//
// A database that cannot be reached or is locked for long is an Unavailable
// error; one whose disk is full is Exhausted. A PostgreSQL that was restarted is
// used again by the next call.
//
// A transaction is done or not, never half. Its caller does not always learn
// which: when the connection breaks while the commit is under way, the error is
// Unavailable and says so. To ask again is safe: Create with the same
// Once.Key returns what was made, and without one is a Conflict if it was; an
// Update with the revision that was read is a Conflict if it was done. The store
// repeats by itself only what is certain not to have been done.
//
// Any number of processes may use one database at the same time.
package store

import (
	"log/slog"

	"github.com/dayfly/dayfly"
)

// Options say where the database is.
type Options struct {
	// URL is sqlite:///path/to/file, made if it is not there, or
	// postgres://… with an existing database.
	URL string
	Log *slog.Logger
}

// Record is a workspace as it is stored.
type Record struct {
	dayfly.Workspace

	// Durable: its maker has been told of it before it ran, or may ask again
	// with an idempotency key. A server that starts goes on making it.
	Durable bool
	// Stopped: a caller, not a rule, has stopped it.
	StoppedByCaller bool
	Revision        int64 // grows with each change; of Update: the one that was read, 0 for any
}

// Creation is one or several new workspaces of one namespace, made at once or
// not at all.
type Creation struct {
	Records []Record
	Events  []dayfly.Event // Seq is set by the store
	Once    Once           // its Namespace is that of the records
}

// Change is a new content of one record.
type Change struct {
	Record Record

	// Reserve: the workspace is about to run, and counts as running if there is
	// room; otherwise nothing is changed, and the error is Exhausted.
	Reserve bool
	Events  []dayfly.Event
}

// Page is a part of a list of workspaces, which a dayfly.Query selects.
type Page struct {
	Records []Record
	Next    string // cursor of the next page; empty: this is the last
}

// KeyRecord is an API key with the digest of its secret.
type KeyRecord struct {
	dayfly.Key
	Digest []byte // SHA-256
}

// SnapshotRecord is whose a snapshot is. Names are unique in a namespace.
type SnapshotRecord struct {
	Namespace string
	dayfly.Snapshot
}
