package wire

import (
	"encoding/json"
	"time"
)

// Procedures of the Filesystem service.
const (
	FilesystemStat             = "/filesystem.Filesystem/Stat"             // PathRequest -> EntryResponse
	FilesystemMakeDir          = "/filesystem.Filesystem/MakeDir"          // PathRequest -> EntryResponse
	FilesystemMove             = "/filesystem.Filesystem/Move"             // MoveRequest -> EntryResponse
	FilesystemListDir          = "/filesystem.Filesystem/ListDir"          // ListDirRequest -> ListDirResponse
	FilesystemRemove           = "/filesystem.Filesystem/Remove"           // PathRequest -> Empty
	FilesystemWatchDir         = "/filesystem.Filesystem/WatchDir"         // WatchRequest -> stream of WatchEvents
	FilesystemCreateWatcher    = "/filesystem.Filesystem/CreateWatcher"    // WatchRequest -> WatcherID
	FilesystemGetWatcherEvents = "/filesystem.Filesystem/GetWatcherEvents" // WatcherID -> WatcherEvents
	FilesystemRemoveWatcher    = "/filesystem.Filesystem/RemoveWatcher"    // WatcherID -> Empty
)

// PathRequest names one file. A relative path starts at the default working
// directory, else at the user's home; a leading ~ is the user's home.
type PathRequest struct {
	Path string `json:"path,omitempty"`
}

// MoveRequest renames a file or directory; the destination's parents are made.
type MoveRequest struct {
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
}

// ListDirRequest lists a directory down to Depth levels; 0 means 1.
type ListDirRequest struct {
	Path  string `json:"path,omitempty"`
	Depth uint32 `json:"depth,omitempty"`
}

// ListDirResponse holds the entries below a directory, parents first, each
// directory's entries by name.
type ListDirResponse struct {
	Entries []EntryInfo `json:"entries,omitempty"`
}

// EntryResponse is one entry.
type EntryResponse struct {
	Entry *EntryInfo `json:"entry,omitempty"`
}

// EntryInfo is a file, directory or symbolic link. Of a link, type and mode are
// those of what it leads to and the rest is its own; a link that leads nowhere
// is a FileSymlink.
type EntryInfo struct {
	Name          string            `json:"name,omitempty"`
	Type          FileType          `json:"type,omitempty"`
	Path          string            `json:"path,omitempty"`
	Size          Int64             `json:"size,omitempty"`
	Mode          uint32            `json:"mode,omitempty"`        // permission bits
	Permissions   string            `json:"permissions,omitempty"` // such as -rw-r--r--
	Owner         string            `json:"owner,omitempty"`
	Group         string            `json:"group,omitempty"`
	ModifiedTime  time.Time         `json:"modifiedTime,omitzero"`
	SymlinkTarget *string           `json:"symlinkTarget,omitempty"` // resolved, where it leads anywhere
	Metadata      map[string]string `json:"metadata,omitempty"`      // the user.e2b.* extended attributes
	IsSymlink     bool              `json:"isSymlink,omitempty"`
}

// FileType is what an entry is.
type FileType int32

// The file types. Devices, pipes and sockets are FileUnspecified.
const (
	FileUnspecified FileType = iota
	FileRegular
	FileDirectory
	FileSymlink
)

func fileTypes() []string {
	return []string{"FILE_TYPE_UNSPECIFIED", "FILE_TYPE_FILE", "FILE_TYPE_DIRECTORY", "FILE_TYPE_SYMLINK"}
}

// MarshalJSON writes the enum's name.
func (t FileType) MarshalJSON() ([]byte, error) { return enumJSON(int32(t), fileTypes()) }

// UnmarshalJSON reads the enum's name or number.
func (t *FileType) UnmarshalJSON(in []byte) error {
	v, err := enum(in, byIndex(fileTypes()))
	*t = FileType(v)
	return err
}

// WatchRequest watches a directory.
type WatchRequest struct {
	Path               string `json:"path,omitempty"`
	Recursive          bool   `json:"recursive,omitempty"`
	IncludeEntry       bool   `json:"includeEntry,omitempty"`       // events carry the entry, where it still exists
	AllowNetworkMounts bool   `json:"allowNetworkMounts,omitempty"` // watch file systems that do not report all changes
}

// UnmarshalJSON takes the fields' proto names too, as proto3 JSON demands.
func (r *WatchRequest) UnmarshalJSON(in []byte) error {
	type plain WatchRequest
	both := struct {
		*plain
		Entry   bool `json:"include_entry"`
		Network bool `json:"allow_network_mounts"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(in, &both); err != nil {
		return err
	}
	r.IncludeEntry = r.IncludeEntry || both.Entry
	r.AllowNetworkMounts = r.AllowNetworkMounts || both.Network
	return nil
}

// WatcherID names a watcher of the polling form.
type WatcherID struct {
	ID string `json:"watcherId,omitempty"`
}

// UnmarshalJSON takes the field's proto name too.
func (w *WatcherID) UnmarshalJSON(in []byte) error {
	var both struct {
		Camel string `json:"watcherId"`
		Snake string `json:"watcher_id"`
	}
	if err := json.Unmarshal(in, &both); err != nil {
		return err
	}
	w.ID = both.Camel
	if w.ID == "" {
		w.ID = both.Snake
	}
	return nil
}

// WatcherEvents is what happened since the last poll.
type WatcherEvents struct {
	Events []FilesystemEvent `json:"events,omitempty"`
}

// WatchEvent is one message of a WatchDir stream: one field is set, and the
// first message is Start.
type WatchEvent struct {
	Start      *Empty           `json:"start,omitempty"`
	Filesystem *FilesystemEvent `json:"filesystem,omitempty"`
	Keepalive  *Empty           `json:"keepalive,omitempty"`
}

// FilesystemEvent is one change below a watched directory.
type FilesystemEvent struct {
	Name  string     `json:"name,omitempty"` // relative to the watched directory
	Type  EventType  `json:"type,omitempty"`
	Entry *EntryInfo `json:"entry,omitempty"`
}

// EventType is the kind of a change.
type EventType int32

// The kinds of changes.
const (
	EventUnspecified EventType = iota
	EventCreate
	EventWrite
	EventRemove
	EventRename
	EventChmod
)

func eventTypes() []string {
	return []string{"EVENT_TYPE_UNSPECIFIED", "EVENT_TYPE_CREATE", "EVENT_TYPE_WRITE",
		"EVENT_TYPE_REMOVE", "EVENT_TYPE_RENAME", "EVENT_TYPE_CHMOD"}
}

// MarshalJSON writes the enum's name.
func (t EventType) MarshalJSON() ([]byte, error) { return enumJSON(int32(t), eventTypes()) }

// UnmarshalJSON reads the enum's name or number.
func (t *EventType) UnmarshalJSON(in []byte) error {
	v, err := enum(in, byIndex(eventTypes()))
	*t = EventType(v)
	return err
}
