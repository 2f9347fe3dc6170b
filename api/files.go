package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

const (
	maxFilePath = 4096 // the kernel's PATH_MAX
	maxDepth    = 10
)

// where is the file that a request is about.
type where struct{ path, user string }

func (f where) check() error {
	if f.path == "" || len(f.path) > maxFilePath {
		return dayfly.Errorf(dayfly.Invalid, "path is %d bytes: use 1 to %d", len(f.path), maxFilePath)
	}
	return nil
}

// GetFile answers GET /v1/workspaces/{id}/files.
func (s routes) GetFile(w http.ResponseWriter, r *http.Request, id WorkspaceID, p GetFileParams) {
	at := where{p.Path, p.User}
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		if err := at.check(); err != nil {
			return err
		}
		switch {
		case p.Stat && p.List:
			return dayfly.Errorf(dayfly.Invalid, "stat and list are both set: use one")
		case p.Stat:
			return s.stat(w, r, id, at)
		case p.List:
			return s.list(w, r, id, p)
		}
		s.pass(w, r, passage{id: id, path: "files", method: r.Method, query: at.query(), modify: refusedFile})
		return nil
	})
}

func (s *Server) stat(w http.ResponseWriter, r *http.Request, id dayfly.ID, at where) error {
	var got wire.EntryResponse
	if err := s.ask(r.Context(), id, at.user, procedure{wire.FilesystemStat, wire.PathRequest{Path: at.path}, &got}); err != nil {
		return err
	}
	if got.Entry == nil {
		return unusable(id, errNoEntry)
	}
	s.reply(w, r, http.StatusOK, fileInfo(*got.Entry))
	return nil
}

var errNoEntry = errors.New("the answer holds no entry")

func (s *Server) list(w http.ResponseWriter, r *http.Request, id dayfly.ID, p GetFileParams) error {
	depth := 1
	if p.Depth != nil {
		depth = *p.Depth
	}
	if depth < 1 || depth > maxDepth {
		return dayfly.Errorf(dayfly.Invalid, "depth is %d: use 1 to %d", depth, maxDepth)
	}
	var got wire.ListDirResponse
	req := wire.ListDirRequest{Path: p.Path, Depth: uint32(depth)}
	if err := s.ask(r.Context(), id, p.User, procedure{wire.FilesystemListDir, req, &got}); err != nil {
		return err
	}
	reply := FileList{Entries: []FileInfo{}}
	for _, e := range got.Entries {
		reply.Entries = append(reply.Entries, fileInfo(e))
	}
	s.reply(w, r, http.StatusOK, reply)
	return nil
}

func fileInfo(e wire.EntryInfo) FileInfo {
	types := map[wire.FileType]string{wire.FileRegular: "file", wire.FileDirectory: "directory", wire.FileSymlink: "symlink"}
	kind, ok := types[e.Type]
	if !ok {
		kind = "other"
	}
	f := FileInfo{
		Name: e.Name, Path: e.Path, Type: kind, Size: int64(e.Size), Mode: int(e.Mode), Owner: e.Owner, Group: e.Group,
		ModifiedAt: e.ModifiedTime, IsSymlink: e.IsSymlink,
	}
	if e.SymlinkTarget != nil {
		f.SymlinkTarget = *e.SymlinkTarget
	}
	return f
}

// PutFile answers PUT /v1/workspaces/{id}/files.
func (s routes) PutFile(w http.ResponseWriter, r *http.Request, id WorkspaceID, p PutFileParams) {
	at := where{p.Path, p.User}
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		if err := at.check(); err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/octet-stream") // the guest would take a form apart
		s.pass(w, r, passage{id: id, path: "files", method: http.MethodPost, query: at.query(), modify: writtenFile})
		return nil
	})
}

// MakeDir answers POST /v1/workspaces/{id}/files.
func (s routes) MakeDir(w http.ResponseWriter, r *http.Request, id WorkspaceID, p MakeDirParams) {
	at := where{p.Path, p.User}
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		if err := at.check(); err != nil {
			return err
		}
		if !p.Mkdir {
			return dayfly.Errorf(dayfly.Invalid, "mkdir is false: set it, or PUT a file")
		}
		var got wire.EntryResponse
		if err := s.ask(r.Context(), id, at.user, procedure{wire.FilesystemMakeDir, wire.PathRequest{Path: at.path}, &got}); err != nil {
			return err
		}
		if got.Entry == nil {
			return unusable(id, errNoEntry)
		}
		s.reply(w, r, http.StatusCreated, fileInfo(*got.Entry))
		return nil
	})
}

// RemoveFile answers DELETE /v1/workspaces/{id}/files.
func (s routes) RemoveFile(w http.ResponseWriter, r *http.Request, id WorkspaceID, p RemoveFileParams) {
	at := where{p.Path, p.User}
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		if err := at.check(); err != nil {
			return err
		}
		if err := s.ask(r.Context(), id, at.user, procedure{wire.FilesystemRemove, wire.PathRequest{Path: at.path}, nil}); err != nil {
			return err
		}
		noContent(w)
		return nil
	})
}

// query names the file to the in-guest API.
func (f where) query() string {
	q := url.Values{"path": {f.path}}
	if f.user != "" {
		q.Set("username", f.user)
	}
	return q.Encode()
}

// fileKinds says what a caller may do about a guest's status.
var fileKinds = map[int]dayfly.Kind{
	http.StatusBadRequest: dayfly.Invalid, http.StatusRequestEntityTooLarge: dayfly.Invalid, http.StatusNotAcceptable: dayfly.Invalid,
	http.StatusUnauthorized: dayfly.Denied, http.StatusForbidden: dayfly.Denied, http.StatusNotFound: dayfly.NotFound,
	http.StatusConflict: dayfly.Conflict, http.StatusInsufficientStorage: dayfly.Exhausted,
}

// refusedFile makes a guest's refusal one of ours, and nothing else pass that a
// file has no use for.
func refusedFile(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified, http.StatusRequestedRangeNotSatisfiable:
		return nil
	}
	defer resp.Body.Close()
	kind, known := fileKinds[resp.StatusCode]
	var said struct {
		Message string `json:"message"`
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxGuestHeader))
	if err == nil {
		err = json.Unmarshal(body, &said)
	}
	if !known || err != nil || said.Message == "" {
		return fmt.Errorf("files: status %d: %.200q", resp.StatusCode, body)
	}
	return &dayfly.Error{Kind: kind, Stage: "guest", Msg: said.Message}
}

// writtenFile is refusedFile for an upload, whose answer says nothing new.
func writtenFile(resp *http.Response) error {
	if err := refusedFile(resp); err != nil {
		return err
	}
	_ = resp.Body.Close()
	resp.StatusCode, resp.Status = http.StatusNoContent, ""
	resp.Body, resp.ContentLength = http.NoBody, 0
	resp.Header.Del("Content-Type")
	resp.Header.Del("Content-Length")
	return nil
}
