package agent

import (
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serveFiles serves GET, HEAD and POST /files.
func (a *Agent) serveFiles(w http.ResponseWriter, r *http.Request) {
	operation, serve := "read", a.download
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		operation, serve = "write", a.upload
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		writeError(w, http.StatusMethodNotAllowed, r.Method+" /files: use GET or POST")
		return
	}
	query := r.URL.Query()
	err := a.state.Load().admitFile(r, query, operation, time.Now())
	if err == nil {
		err = serve(w, r, query)
	}
	if err != nil {
		a.fail(w, r, err)
	}
}

// fileOf returns the user and the path a file request names.
func (a *Agent) fileOf(query url.Values) (account, string, error) {
	user, err := a.account(query.Get("username"))
	if err != nil {
		return user, "", err
	}
	path, err := a.state.Load().resolve(user, query.Get("path"))
	return user, path, err
}

func (a *Agent) download(w http.ResponseWriter, r *http.Request, query url.Values) error {
	_, path, err := a.fileOf(query)
	if err != nil {
		return err
	}
	coding, err := chooseCoding(r.Header)
	if err != nil {
		return err
	}
	f, fi, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": filepath.Base(path)}))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Vary", "Accept-Encoding")
	if mime.TypeByExtension(filepath.Ext(path)) == "" {
		h.Set("Content-Type", "application/octet-stream")
	}
	switch {
	case coding == "gzip":
		return sendGzip(w, r, path, f)
	case sizeless(f, fi):
		return sendStream(w, r, f)
	}
	h.Set("ETag", etag(fi))
	http.ServeContent(w, r, path, fi.ModTime(), f) // ranges and conditions
	return nil
}

// openRegular opens a file that is no directory, pipe or device; those would
// block, or never end.
func openRegular(path string, flags int) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NONBLOCK, 0o666)
	if err != nil {
		return nil, nil, pathError(path, err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case fi.IsDir():
		err = refusal(http.StatusBadRequest, fmt.Sprintf("path '%s' is a directory", path))
	case !fi.Mode().IsRegular():
		err = refusal(http.StatusBadRequest, fmt.Sprintf("path '%s' is not a regular file", path))
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// pathError is an error of the file system in words for the client.
func pathError(path string, err error) error {
	switch status := fileStatus(err); status {
	case http.StatusInternalServerError:
		return err
	case http.StatusNotFound:
		return refusal(status, fmt.Sprintf("path '%s' does not exist", path))
	case http.StatusInsufficientStorage:
		return refusal(status, "not enough disk space available")
	default:
		return refusal(status, fmt.Sprintf("path '%s': %v", path, reason(err)))
	}
}

// sizeless says whether a file's size is not to be trusted: procfs and cgroupfs
// say 0, sysfs says 4096 (linux/magic.h). What says 0 is cheap to read anyway.
func sizeless(f *os.File, fi fs.FileInfo) bool {
	if fi.Size() == 0 {
		return true
	}
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Type == unix.SYSFS_MAGIC
}

// etag changes whenever the content may have.
func etag(fi fs.FileInfo) string {
	var ino uint64
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		ino = st.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, fi.ModTime().UnixNano(), fi.Size(), ino)
}

func sendGzip(w http.ResponseWriter, r *http.Request, path string, f *os.File) error {
	h := w.Header()
	h.Set("Content-Encoding", "gzip")
	if kind := mime.TypeByExtension(filepath.Ext(path)); kind != "" {
		h.Set("Content-Type", kind)
	}
	if r.Method == http.MethodHead {
		return nil
	}
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
	if _, err := io.Copy(z, f); err != nil {
		panic(http.ErrAbortHandler) // the answer has begun: cutting it is the only way to say so
	}
	if z.Close() != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

func sendStream(w http.ResponseWriter, r *http.Request, f *os.File) error {
	if r.Method == http.MethodHead {
		return nil
	}
	first := make([]byte, 32<<10)
	n, err := io.ReadFull(f, first)
	if n == 0 && err != io.EOF {
		return err // nothing sent yet: a proper refusal is possible
	}
	if _, err := w.Write(first[:n]); err != nil {
		return nil // the caller has gone
	}
	if err == nil {
		if _, err := io.Copy(w, f); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}
