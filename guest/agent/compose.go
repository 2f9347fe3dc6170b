package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// Bounds of a compose request.
const (
	maxComposeBody = 4 << 20
	maxSources     = 10_000
)

// composeRequest asks for files to be put one after the other into a new one.
type composeRequest struct {
	Sources     []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

// serveCompose concatenates files and then deletes them. The destination
// appears whole or not at all.
func (a *Agent) serveCompose(w http.ResponseWriter, r *http.Request) {
	var req composeRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxComposeBody)).Decode(&req)
	if err != nil {
		a.fail(w, r, refusal(http.StatusBadRequest, "compose: "+err.Error()))
		return
	}
	out, err := a.compose(&req)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	writeJSON(w, out)
}

func (a *Agent) compose(req *composeRequest) (*uploaded, error) {
	user, err := a.account(req.Username)
	if err != nil {
		return nil, err
	}
	if len(req.Sources) == 0 || len(req.Sources) > maxSources || req.Destination == "" {
		return nil, refusal(http.StatusBadRequest, fmt.Sprintf("compose: name a destination and 1 to %d source_paths", maxSources))
	}
	st := a.state.Load()
	to, err := st.resolve(user, req.Destination)
	if err != nil {
		return nil, err
	}
	var from []string
	for _, s := range req.Sources {
		path, err := st.resolve(user, s)
		if err != nil {
			return nil, err
		}
		if path == to {
			return nil, refusal(http.StatusBadRequest, fmt.Sprintf("compose: '%s' is source and destination", path))
		}
		from = append(from, path)
	}
	if err := makeDirs(filepath.Dir(to), user); err != nil {
		return nil, pathError(filepath.Dir(to), err)
	}
	if err := concatenate(to, from, user); err != nil {
		return nil, err
	}
	for _, path := range from {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, pathError(path, err)
		}
	}
	return &uploaded{Path: to, Name: filepath.Base(to), Type: "file"}, nil
}

// concatenate writes to a temporary name and renames.
func concatenate(to string, from []string, user account) (err error) {
	if fi, err := os.Stat(to); err == nil && !fi.Mode().IsRegular() {
		return refusal(http.StatusBadRequest, fmt.Sprintf("path '%s' is not a regular file", to))
	}
	tmp, err := os.CreateTemp(filepath.Dir(to), ".compose-*")
	if err != nil {
		return pathError(to, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	defer tmp.Close()
	for _, path := range from {
		if err := appendFile(tmp, path); err != nil {
			return err
		}
	}
	if err := tmp.Chmod(0o644); err != nil {
		return pathError(to, err)
	}
	if err := chown(tmp.Name(), user); err != nil {
		return pathError(to, err)
	}
	if err := os.Rename(tmp.Name(), to); err != nil {
		return pathError(to, err)
	}
	return nil
}

func appendFile(dst *os.File, path string) error {
	src, _, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return pathError(path, err)
	}
	return nil
}
