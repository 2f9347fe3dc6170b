package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/test/fakehost"
)

// hinting is a guest that says something before its reply.
type hinting struct{}

func (hinting) Dial(context.Context, dayfly.ID, uint16) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		_, _ = far.Read(make([]byte, 4096))
		_, _ = io.WriteString(far, "HTTP/1.1 103 Early Hints\r\nSet-Cookie: session=guest\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	}()
	return near, nil
}

func TestHintsOfAGuestDoNotPass(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *api.Options) { o.Guests = hinting{} })
	ws := s.workspace(fakehost.AdminKey)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		t.Errorf("%d %v", code, h)
		return nil
	}})
	resp := s.send(ctx, ask{key: fakehost.AdminKey, method: "GET", path: "/v1/workspaces/" + string(ws.ID) + "/guest/health"})
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}
