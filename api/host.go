package api

import (
	"net/http"

	"github.com/dayfly/dayfly"
)

// GetHost answers GET /v1/host.
func (s routes) GetHost(w http.ResponseWriter, r *http.Request) {
	if s.o.Host == nil {
		s.refuse(w, r, lacking("checks of the host"))
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
	noContent(w)
}

// Readyz answers GET /readyz.
func (s routes) Readyz(w http.ResponseWriter, r *http.Request) {
	if s.o.Health != nil {
		if err := s.o.Health.Ready(r.Context()); err != nil {
			s.refuse(w, r, unready(err))
			return
		}
	}
	noContent(w)
}

// unready makes any reason a 503, as those that ask look at the status.
func unready(err error) error {
	e := *public(err)
	if e.Kind != dayfly.Unavailable {
		e.Msg, e.Err = "not ready: "+e.Msg, err
	}
	e.Kind = dayfly.Unavailable
	return &e
}
