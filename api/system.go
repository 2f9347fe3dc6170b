package api

import (
	"net/http"

	"github.com/dayfly/dayfly"
)

var errNoSystem = lacking("disk usage")

// GetUsage answers GET /v1/system/usage.
func (s routes) GetUsage(w http.ResponseWriter, r *http.Request) {
	s.usage(w, r, func(sys System) ([]dayfly.Usage, error) { return sys.Usage(r.Context()) })
}

// Prune answers POST /v1/system/prune. A caller that leaves stops it; what was
// removed by then is gone.
func (s routes) Prune(w http.ResponseWriter, r *http.Request) {
	s.usage(w, r, func(sys System) ([]dayfly.Usage, error) { return sys.Prune(r.Context()) })
}

func (s *Server) usage(w http.ResponseWriter, r *http.Request, of func(System) ([]dayfly.Usage, error)) {
	if s.o.System == nil {
		s.refuse(w, r, errNoSystem)
		return
	}
	list, err := of(s.o.System)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, UsageList{Usage: orEmpty(list)})
}
