package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// FS returns the files of the workspace, from its root on, for as long as ctx
// lasts. It has ReadDir, ReadFile and Stat as well. As in any fs.FS names do
// not begin with a slash: "etc/os-release". What is not there, or not allowed,
// is an fs.ErrNotExist or fs.ErrPermission.
func (w *Workspace) FS(ctx context.Context) fs.FS { return &files{ctx: ctx, w: w} }

type files struct {
	ctx context.Context //nolint:containedctx // the interface has no other place for it
	w   *Workspace
}

var (
	_ fs.ReadDirFS  = (*files)(nil)
	_ fs.ReadFileFS = (*files)(nil)
	_ fs.StatFS     = (*files)(nil)
)

// fileError is an error with what package fs calls it.
type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

func (e *fileError) Is(target error) bool {
	switch dayfly.KindOf(e.err) {
	case dayfly.NotFound:
		return target == fs.ErrNotExist
	case dayfly.Denied:
		return target == fs.ErrPermission
	case dayfly.Conflict:
		return target == fs.ErrExist
	case dayfly.Invalid:
		return target == fs.ErrInvalid
	}
	return false
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var already *fs.PathError
	if errors.As(err, &already) {
		return &fs.PathError{Op: op, Path: name, Err: already.Err}
	}
	return &fs.PathError{Op: op, Path: name, Err: &fileError{err}}
}

// absolute is the path in the workspace of a name in a file system.
func absolute(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return path.Join("/", name), nil
}

// Open opens a file or directory.
func (f *files) Open(name string) (fs.File, error) {
	at, err := absolute("open", name)
	if err != nil {
		return nil, err
	}
	info, err := f.w.stat(f.ctx, at)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	info.name = path.Base(name)
	if info.IsDir() {
		return &openDir{files: f, name: name, info: info}, nil
	}
	return &openFile{files: f, name: name, at: at, info: info}, nil
}

// Stat describes what a name leads to.
func (f *files) Stat(name string) (fs.FileInfo, error) {
	at, err := absolute("stat", name)
	if err != nil {
		return nil, err
	}
	info, err := f.w.stat(f.ctx, at)
	info.name = path.Base(name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info, nil
}

// ReadDir lists a directory, by name.
func (f *files) ReadDir(name string) ([]fs.DirEntry, error) {
	at, err := absolute("readdir", name)
	if err != nil {
		return nil, err
	}
	list, err := f.w.list(f.ctx, at)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	return list, nil
}

// ReadFile reads a file whole.
func (f *files) ReadFile(name string) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// stat describes a file; of a link, what it leads to.
func (w *Workspace) stat(ctx context.Context, at string) (fileInfo, error) {
	yes := true
	e, err := decode[rest.FileInfo](w.c.rest.GetFile(ctx, string(w.ID), &rest.GetFileParams{Path: at, Stat: yes}))
	if err == nil && e.IsSymlink && e.SymlinkTarget != "" && e.Type != "symlink" {
		target, err := decode[rest.FileInfo](w.c.rest.GetFile(ctx, string(w.ID), &rest.GetFileParams{Path: e.SymlinkTarget, Stat: yes}))
		if err == nil {
			e = target
		}
	}
	return infoOf(e), err
}

// list returns what is in a directory; links are themselves.
func (w *Workspace) list(ctx context.Context, at string) ([]fs.DirEntry, error) {
	l, err := decode[rest.FileList](w.c.rest.GetFile(ctx, string(w.ID), &rest.GetFileParams{Path: at, List: true}))
	list := []fs.DirEntry{}
	for _, e := range l.Entries {
		info := infoOf(e)
		if e.IsSymlink {
			info.mode = fs.ModeSymlink | 0o777
		}
		list = append(list, fs.FileInfoToDirEntry(info))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// fileInfo is an fs.FileInfo.
type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
	at   time.Time
}

func infoOf(e rest.FileInfo) fileInfo {
	types := map[string]fs.FileMode{"directory": fs.ModeDir, "symlink": fs.ModeSymlink, "other": fs.ModeIrregular}
	return fileInfo{name: e.Name, size: e.Size, mode: fs.FileMode(e.Mode)&fs.ModePerm | types[e.Type], at: e.ModifiedAt}
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return i.at }
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }

// openFile is a file whose content is asked for when it is first read.
type openFile struct {
	*files
	name, at string
	info     fileInfo
	body     io.ReadCloser
	closed   bool
}

// Stat describes the file as it was when it was opened.
func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// Read reads on.
func (f *openFile) Read(p []byte) (int, error) {
	if f.closed {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrClosed}
	}
	if f.body == nil {
		body, err := f.w.Open(f.ctx, f.at)
		if err != nil {
			return 0, pathError("read", f.name, err)
		}
		f.body = body
	}
	n, err := f.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = pathError("read", f.name, garbled(err))
	}
	return n, err
}

// Close ends the reading.
func (f *openFile) Close() error {
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	if f.body == nil {
		return nil
	}
	return f.body.Close()
}

// openDir is a directory that is listed when first asked.
type openDir struct {
	*files
	name string
	info fileInfo
	rest []fs.DirEntry
	read bool
}

// Stat describes the directory as it was when it was opened.
func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read is refused.
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New("is a directory")}
}

// Close does nothing.
func (d *openDir) Close() error { return nil }

// ReadDir returns up to n entries, all for n <= 0.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.files.ReadDir(d.name)
		if err != nil {
			return nil, err
		}
		d.rest, d.read = list, true
	}
	if n <= 0 {
		n = len(d.rest)
	} else if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out, nil
}

// Open reads a file of the workspace as its default user. The path is absolute,
// or from the workspace's directory on; ~ is the user's home.
func (w *Workspace) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := w.c.rest.GetFile(ctx, string(w.ID), &rest.GetFileParams{Path: name})
	if err != nil {
		return nil, unreached(err)
	}
	if err := refusal(resp); err != nil {
		drain(resp)
		return nil, err
	}
	return resp.Body, nil
}

// ReadFile reads a file of the workspace whole.
func (w *Workspace) ReadFile(ctx context.Context, name string) ([]byte, error) {
	body, err := w.Open(ctx, name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		return b, pathError("read", name, garbled(err))
	}
	return b, nil
}

// WriteFile writes a file of the workspace, with the directories above it. A
// file that is there keeps its owner and mode.
func (w *Workspace) WriteFile(ctx context.Context, name string, data []byte) error {
	return w.Upload(ctx, name, bytes.NewReader(data))
}

// Upload is WriteFile for content that is streamed.
func (w *Workspace) Upload(ctx context.Context, name string, content io.Reader) error {
	p := rest.PutFileParams{Path: name}
	err := done(w.c.rest.PutFileWithBody(ctx, string(w.ID), &p, bytesType, sized(content)))
	return pathError("write", name, err)
}

// sized hides a Close, which belongs to the caller, and keeps the types that
// tell net/http how much there is.
func sized(r io.Reader) io.Reader {
	switch r := r.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return r
	}
	return justReader{r}
}

// MkdirAll makes a directory of the workspace, and those above it. One that is
// there is fine.
func (w *Workspace) MkdirAll(ctx context.Context, name string) error {
	err := done(w.c.rest.MakeDir(ctx, string(w.ID), &rest.MakeDirParams{Path: name, Mkdir: true}))
	if dayfly.KindOf(err) == dayfly.Conflict {
		info, statErr := w.stat(ctx, name)
		if statErr == nil && info.IsDir() {
			return nil
		}
	}
	return pathError("mkdir", name, err)
}

// Remove removes a file of the workspace, or a directory with all that is in it.
// What is not there is fine.
func (w *Workspace) Remove(ctx context.Context, name string) error {
	return pathError("remove", name, done(w.c.rest.RemoveFile(ctx, string(w.ID), &rest.RemoveFileParams{Path: name})))
}

// Stat describes a file of the workspace; of a link, what it leads to.
func (w *Workspace) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	info, err := w.stat(ctx, name)
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info, nil
}
