package main

import (
	"context"
	"net"
	"strings"
)

// tellSupervisor says a word, such as READY=1, to the service manager that
// started this process, if there is one (sd_notify(3)).
func (a *app) tellSupervisor(ctx context.Context, word string) {
	path := a.getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if abstract, ok := strings.CutPrefix(path, "@"); ok {
		path = "\x00" + abstract
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixgram", path)
	if err != nil {
		return // it then waits in vain, and says so itself
	}
	defer c.Close()
	_, _ = c.Write([]byte(word))
}
