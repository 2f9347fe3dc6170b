package agent

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// tokenHeader carries the workspace's access token.
const tokenHeader = "X-Access-Token"

// serve is the whole API. A switch and no ServeMux: it costs nothing before
// the first request.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request) {
	if !a.mayPass(r) {
		writeError(w, http.StatusUnauthorized, "unauthorized: this workspace asks for its access token in the header "+tokenHeader)
		return
	}
	switch r.URL.Path {
	case "/health":
		onMethod(w, r, http.MethodGet, a.serveHealth)
	case "/metrics":
		onMethod(w, r, http.MethodGet, a.serveMetrics)
	case "/envs":
		onMethod(w, r, http.MethodGet, a.serveEnvs)
	case "/files":
		a.serveFiles(w, r)
	case "/files/compose":
		onMethod(w, r, http.MethodPost, a.serveCompose)
	case wire.InitPath:
		onMethod(w, r, http.MethodPost, a.serveInit)
	case wire.PoweroffPath:
		onMethod(w, r, http.MethodPost, a.servePoweroff)
	default:
		if !a.serveProcess(w, r) && !a.serveFilesystem(w, r) && !a.serveCopy(w, r) {
			a.serveUnknown(w, r)
		}
	}
}

// mayPass checks the access token. Four routes do without: /health, /files,
// where a signature may stand in for it, and the host's own, which no edge
// lets through.
func (a *Agent) mayPass(r *http.Request) bool {
	switch r.URL.Path {
	case "/health", "/files":
		if r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Path == "/files" && r.Method == http.MethodPost {
			return true
		}
	case wire.InitPath, wire.PoweroffPath, wire.FreezePath, wire.ThawPath, wire.ClockPath, wire.RenewPath, wire.RestPath, wire.RehearsePath:
		return true
	}
	return a.state.Load().admits(r)
}

// admits compares tokens in constant time.
func (s *state) admits(r *http.Request) bool {
	return s.token == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(s.token)) == 1
}

func onMethod(w http.ResponseWriter, r *http.Request, method string, serve http.HandlerFunc) {
	if r.Method != method && (r.Method != http.MethodHead || method != http.MethodGet) {
		w.Header().Set("Allow", method)
		writeError(w, http.StatusMethodNotAllowed, r.Method+" "+r.URL.Path+": use "+method)
		return
	}
	serve(w, r)
}

// serveHealth says that the agent is up, and which it is.
func (a *Agent) serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if a.cfg.Version != "" {
		w.Header().Set("X-Agent-Version", a.cfg.Version)
	}
	w.WriteHeader(http.StatusNoContent)
}

// serveEnvs returns the workspace's variables, as Init set them.
func (a *Agent) serveEnvs(w http.ResponseWriter, _ *http.Request) {
	env := maps.Clone(a.state.Load().env)
	if env == nil {
		env = map[string]string{}
	}
	writeJSON(w, env)
}

// serveUnknown refuses what we do not serve: in Connect's form where the path
// looks like a procedure.
func (a *Agent) serveUnknown(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/process.Process/") || strings.HasPrefix(r.URL.Path, "/filesystem.Filesystem/") {
		wire.WriteError(w, wire.Errorf(wire.Unimplemented, "%s is not a procedure of this agent", r.URL.Path))
		return
	}
	writeError(w, http.StatusNotFound, "no such route: "+r.Method+" "+r.URL.Path)
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeError(w, http.StatusInternalServerError, "encode answer: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the caller has gone: nothing left to tell
}

// errorBody is the error of a plain route. Kind and Stage are for our own
// host, so that its errors arrive as they were.
type errorBody struct {
	Code    int         `json:"code"`
	Message string      `json:"message"`
	Kind    dayfly.Kind `json:"kind,omitempty"`
	Stage   string      `json:"stage,omitempty"`
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeErrorBody(w, errorBody{Code: status, Message: message})
}

func writeErrorBody(w http.ResponseWriter, e errorBody) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(e.Code)
	body, _ := json.Marshal(e) // strings and numbers only: cannot fail
	_, _ = w.Write(body)
}

// httpError is a plain route's refusal.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

func refusal(status int, message string) error { return &httpError{status, message} }

// fail answers with any error: a refusal as it is, a wire.Error by its code,
// what the file system said by its meaning.
func (a *Agent) fail(w http.ResponseWriter, r *http.Request, err error) {
	var h *httpError
	var e *wire.Error
	switch {
	case errors.As(err, &h):
		writeError(w, h.status, h.message)
	case errors.As(err, &e):
		writeError(w, e.Code.Status(), e.Message)
	default:
		status := fileStatus(err)
		if status == http.StatusInternalServerError {
			a.log.WarnContext(r.Context(), "request failed", "path", r.URL.Path, "err", err)
		}
		writeError(w, status, err.Error())
	}
}

// fileStatus is the HTTP status of an error of the file system.
func fileStatus(err error) int {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case isFull(err):
		return http.StatusInsufficientStorage
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return http.StatusForbidden
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENXIO):
		return http.StatusBadRequest
	case errors.Is(err, syscall.ETXTBSY), errors.Is(err, syscall.EBUSY):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// longAgo is a deadline that has passed.
func longAgo() time.Time { return time.Unix(1, 0) }
