package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// queries are the query parameters of each route that has some. A selection with
// a mistyped name would select everything, so what is not here is refused.
var queries = map[string][]string{
	"GET /v1/workspaces":               {"state", "name", "image", "metadata", "namespace", "order", "cursor", "limit"},
	"POST /v1/workspaces":              {"wait"},
	"GET /v1/workspaces/{id}/metrics":  {"interval"},
	"GET /v1/workspaces/{id}/logs":     {"source", "tail", "follow"},
	"GET /v1/workspaces/{id}/files":    {"path", "user", "stat", "list", "depth"},
	"PUT /v1/workspaces/{id}/files":    {"path", "user"},
	"POST /v1/workspaces/{id}/files":   {"path", "user", "mkdir"},
	"DELETE /v1/workspaces/{id}/files": {"path", "user"},
	"GET /v1/snapshots":                {"workspace"},
	"GET /v1/events":                   {"after", "new", "workspace", "type", "namespace", "limit"},
	"GET /v1/quota":                    {"namespace"},
	"GET /v1/audit":                    {"namespace", "before", "limit"},
	"POST /v1/images/import":           {"name", "platform"},
}

// checkQuery refuses query parameters that a route does not have, but for the
// token of a caller.
func checkQuery(r *http.Request, route string) error {
	if r.URL.RawQuery == "" || route == "" || route == guestRoute || !strings.Contains(route, " /v1/") {
		return nil
	}
	known := queries[route]
	for _, name := range slices.Sorted(maps.Keys(r.URL.Query())) {
		switch {
		case name == "token" || slices.Contains(known, name):
		case len(known) == 0:
			return dayfly.Errorf(dayfly.Invalid, "query parameter %q: this route has none", clip(name))
		default:
			return dayfly.Errorf(dayfly.Invalid, "query parameter %q is none of this route: use %s", clip(name), strings.Join(known, ", "))
		}
	}
	return nil
}
