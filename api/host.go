package api

import (
	"net/http"

	"github.com/dayfly/dayfly"
)

// GetHost answers GET /v1/host.
func (s routes) GetHost(w http.ResponseWriter, r *http.Request) {
	if s.o.Host == nil {
		s.refuse(w, r, dayfly.Errorf(dayfly.Unavailable, "this server does not check its host"))
		return
	}
	s.reply(w, r, http.StatusOK, Host{Checks: orEmpty(s.o.Host.Checks(r.Context()))})
}

// GetVersion answers GET /v1/version.
func (s routes) GetVersion(w http.ResponseWriter, r *http.Request) {
	s.reply(w, r, http.StatusOK, Version{Version: dayfly.Version})
}

// Healthz answers GET /healthz.
func (s routes) Healthz(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusNoContent)
}
