package agent

import "net/http"

type watcherTable struct{}

func (t *watcherTable) close() {}

func (a *Agent) serveFilesystem(w http.ResponseWriter, r *http.Request) bool { return false }
func (a *Agent) serveFiles(w http.ResponseWriter, r *http.Request)           {}
func (a *Agent) serveCompose(w http.ResponseWriter, r *http.Request)         {}
