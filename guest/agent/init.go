package agent

import (
	"errors"
	"maps"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Bounds of an Init.
const (
	maxInitBody = 2 << 20
	maxInitEnv  = 4096 // variables
	maxToken    = 4096 // bytes
)

// serveInit makes the machine the workspace the host describes. What was set
// before and is not in the request is cleared, the token included; only the
// root file system and the image's configuration stay.
func (a *Agent) serveInit(w http.ResponseWriter, r *http.Request) {
	done, ok := a.takeTurn(r.Context())
	if !ok {
		return
	}
	defer done()
	init, err := readInit(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	withRoot := init.Root != nil && !a.rooted
	if !withRoot {
		init.Root = nil
	}
	reply := wire.InitReply{Kernel: kernelRelease()}
	if a.cfg.OnInit != nil {
		if reply, err = a.cfg.OnInit(r.Context(), init); err != nil {
			a.failHost(w, r, err)
			return
		}
	}
	a.rooted = a.rooted || withRoot
	a.state.Store(a.state.Load().with(init))
	writeJSON(w, reply)
}

// readInit reads and bounds the request. An empty body is an empty Init.
func readInit(w http.ResponseWriter, r *http.Request) (init wire.Init, err error) {
	if err := readHost(w, r, &init); err != nil {
		return init, err
	}
	return init, checkInit(&init)
}

func checkInit(init *wire.Init) error {
	if len(init.AccessToken) > maxToken || len(init.EnvVars) > maxInitEnv {
		return refusal(http.StatusBadRequest, "init: the token or the environment is too long")
	}
	for k, v := range init.EnvVars {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.IndexByte(v, 0) >= 0 {
			return refusal(http.StatusBadRequest, "init: env: a name holds no = and neither part a NUL byte")
		}
	}
	for _, s := range []string{init.DefaultUser, init.DefaultWorkdir, init.ID, init.Hostname} {
		if strings.IndexByte(s, 0) >= 0 || len(s) > maxPath {
			return refusal(http.StatusBadRequest, "init: a field is too long or holds a NUL byte")
		}
	}
	return nil
}

// with returns the state after an Init.
func (s *state) with(init wire.Init) *state {
	next := &state{
		token:   init.AccessToken,
		id:      init.ID,
		env:     maps.Clone(init.EnvVars),
		user:    init.DefaultUser,
		workdir: init.DefaultWorkdir,
		image:   s.image,
	}
	if next.id == "" {
		next.id = s.id
	}
	if init.Config != nil {
		next.image = *init.Config
	}
	return next
}

// servePoweroff hands the host's request to end the machine on.
func (a *Agent) servePoweroff(w http.ResponseWriter, r *http.Request) {
	if a.cfg.OnPoweroff == nil {
		writeError(w, http.StatusNotImplemented, "poweroff: this agent is not the init of a machine")
		return
	}
	if err := a.cfg.OnPoweroff(r.Context()); err != nil {
		a.failHost(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// failHost answers the host with an error in full: it is the same program.
func (a *Agent) failHost(w http.ResponseWriter, r *http.Request, err error) {
	a.log.ErrorContext(r.Context(), "host request failed", "path", r.URL.Path, "err", err)
	out := errorBody{Code: http.StatusInternalServerError, Message: err.Error(), Kind: dayfly.KindOf(err)}
	var e *dayfly.Error
	if errors.As(err, &e) {
		out.Message, out.Stage = e.Msg, e.Stage
		if e.Err != nil {
			out.Message += ": " + e.Err.Error()
		}
	}
	switch out.Kind {
	case dayfly.Invalid:
		out.Code = http.StatusBadRequest
	case dayfly.NotFound:
		out.Code = http.StatusNotFound
	case dayfly.Conflict:
		out.Code = http.StatusConflict
	case dayfly.Denied:
		out.Code = http.StatusForbidden
	case dayfly.Exhausted:
		out.Code = http.StatusInsufficientStorage
	case dayfly.Unavailable:
		out.Code = http.StatusServiceUnavailable
	}
	writeErrorBody(w, out)
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
