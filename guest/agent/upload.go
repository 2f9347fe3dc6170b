package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
)

// Bounds of an upload. The disk bounds its bytes.
const (
	maxUploads  = 10_000   // files in one request
	drainUpload = 64 << 20 // bytes read after a refusal, so that a client still sending hears of it
)

// uploaded is one file of an upload's answer.
type uploaded struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"` // always "file"
	Metadata map[string]string `json:"metadata,omitempty"`
}

// upload stores files. An existing one keeps its owner, mode and hard links: it
// is written in place, as E2B has it, so what reads it meanwhile may see part
// of it. A new file that cannot be completed is removed.
func (a *Agent) upload(w http.ResponseWriter, r *http.Request, query url.Values) error {
	out, err := a.receive(r, query)
	if err != nil {
		_, _ = io.CopyN(io.Discard, r.Body, drainUpload)
		return err
	}
	writeJSON(w, out)
	return nil
}

func (a *Agent) receive(r *http.Request, query url.Values) ([]uploaded, error) {
	user, path, err := a.fileOf(query)
	if err != nil {
		return nil, err
	}
	meta, err := metadataOf(r.Header)
	if err != nil {
		return nil, err
	}
	body, err := decodeBody(r)
	if err != nil {
		return nil, err
	}
	in := &incoming{a: a, user: user, meta: meta, size: r.ContentLength, seen: map[string]bool{}}
	if body != io.Reader(r.Body) {
		in.size = -1
	}
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case kind == "multipart/form-data":
		if query.Get("path") == "" {
			path = ""
		}
		err = in.multipart(multipart.NewReader(body, params["boundary"]), path)
	case query.Get("path") == "":
		err = refusal(http.StatusBadRequest, "upload: the query parameter path is missing")
	case kind == "application/octet-stream" || kind == "":
		err = in.store(path, body)
	default:
		err = refusal(http.StatusUnsupportedMediaType, fmt.Sprintf("upload: content type %q: use multipart/form-data or application/octet-stream", kind))
	}
	return in.out, err
}

// incoming is an upload under way.
type incoming struct {
	a    *Agent
	user account
	meta map[string]string
	size int64 // bytes of the whole body, -1 where unknown
	seen map[string]bool
	out  []uploaded
}

// multipart stores every part named "file": at path where there is one, else
// at the path its file name says.
func (in *incoming) multipart(parts *multipart.Reader, path string) error {
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return refusal(http.StatusBadRequest, "upload: multipart: "+err.Error())
		}
		name, fileName, err := disposition(part.Header.Get("Content-Disposition"))
		if err != nil {
			return err
		}
		if name != "file" {
			continue
		}
		if err := in.part(part, path, fileName); err != nil {
			return err
		}
	}
	if len(in.out) == 0 {
		return refusal(http.StatusBadRequest, "upload: no part named file")
	}
	return nil
}

func (in *incoming) part(part io.Reader, path, fileName string) error {
	to := path
	if to == "" {
		if fileName == "" {
			return refusal(http.StatusBadRequest, "upload: neither the query parameter path nor a file name is given")
		}
		var err error
		if to, err = in.a.state.Load().resolve(in.user, fileName); err != nil {
			return err
		}
	}
	if in.seen[to] {
		return refusal(http.StatusBadRequest, fmt.Sprintf("upload: more than one file for the path '%s'", to))
	}
	if len(in.out) >= maxUploads {
		return refusal(http.StatusBadRequest, fmt.Sprintf("upload: more than %d files", maxUploads))
	}
	in.seen[to] = true
	return in.store(to, part)
}

// disposition returns a part's field and file name. The file name keeps its
// directories, which mime/multipart would drop.
func disposition(header string) (name, fileName string, err error) {
	kind, params, err := mime.ParseMediaType(header)
	if err != nil || kind != "form-data" {
		return "", "", refusal(http.StatusBadRequest, "upload: a part without a form-data disposition")
	}
	return params["name"], params["filename"], nil
}

// store writes one file.
func (in *incoming) store(path string, body io.Reader) error {
	f, created, err := in.open(path)
	if err != nil {
		return err
	}
	err = in.fill(f, path, body)
	if cerr := f.Close(); err == nil && cerr != nil {
		err = pathError(path, cerr)
	}
	if err != nil {
		if created {
			_ = os.Remove(path)
		}
		return err
	}
	in.out = append(in.out, uploaded{Path: path, Name: filepath.Base(path), Type: "file", Metadata: in.meta})
	return nil
}

// open opens an existing file, or makes one, with its parents, for the user.
func (in *incoming) open(path string) (f *os.File, created bool, err error) {
	if _, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(filepath.Dir(path), in.user); err != nil {
			return nil, false, pathError(filepath.Dir(path), err)
		}
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			if err = chown(path, in.user); err == nil {
				return f, true, nil
			}
			f.Close()
			_ = os.Remove(path)
			return nil, false, pathError(path, err)
		}
		if !errors.Is(err, fs.ErrExist) { // else it came to be just now, or is a link to nothing
			return nil, false, pathError(path, err)
		}
	}
	f, _, err = openRegular(path, os.O_WRONLY|os.O_CREATE)
	return f, false, err
}

// fill replaces a file's content, unless it is plain from the start that the
// disk is too small.
func (in *incoming) fill(f *os.File, path string, body io.Reader) error {
	if err := in.checkSpace(f); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return pathError(path, err)
	}
	src := &bodyReader{r: body}
	if _, err := io.Copy(f, src); err != nil {
		if src.err != nil {
			return refusal(http.StatusBadRequest, "upload: the body ended early: "+src.err.Error())
		}
		return pathError(path, err)
	}
	return writeMetadata(int(f.Fd()), in.meta)
}

// checkSpace keeps an existing file from being emptied for an upload that
// cannot fit.
func (in *incoming) checkSpace(f *os.File) error {
	var vfs syscall.Statfs_t
	var st syscall.Stat_t
	if in.size <= 0 || syscall.Fstatfs(int(f.Fd()), &vfs) != nil || syscall.Fstat(int(f.Fd()), &st) != nil {
		return nil
	}
	free := int64(vfs.Bfree)*vfs.Bsize + st.Blocks*512 // stat(2): blocks are of 512 bytes
	if vfs.Blocks > 0 && in.size > free {
		return refusal(http.StatusInsufficientStorage, fmt.Sprintf("not enough disk space available: %d bytes needed, %d bytes free", in.size, free))
	}
	return nil
}

// bodyReader remembers that reading failed, to tell it from writing.
type bodyReader struct {
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
