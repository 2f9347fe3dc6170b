package store

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dayfly/dayfly"
	pg "github.com/dayfly/dayfly/test/postgres"
)

// wire carries connections to a PostgreSQL, and cuts one of them.
type wire struct {
	server string // its socket
	at     atomic.Pointer[cut]
}

// cut is where a connection breaks, once: at a piece of what the client sends.
type cut struct {
	text    string
	arrives bool // the server gets it, but its answer is lost
}

const socket = ".s.PGSQL.5432"

// newWire returns a wire and the URL by which it is used.
func newWire(t *testing.T, to string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(to)
	no(t, err)
	w := &wire{server: filepath.Join(u.Query().Get("host"), socket)}
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, socket))
	no(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	u.RawQuery = url.Values{"host": {dir}}.Encode()
	return w, u.String()
}

func (w *wire) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		c := w.at.Load()
		if c != nil && bytes.Contains(buffer[:n], []byte(c.text)) && w.at.CompareAndSwap(c, nil) {
			_ = client.Close()
			if c.arrives {
				// The server ends the connection after it has done what it was asked for.
				_, _ = server.Write(buffer[:n])
				_ = server.(*net.UnixConn).CloseWrite()
				_, _ = io.Copy(io.Discard, server)
			}
			return
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestBrokenConnectionIsTellableFromDoneOrNot breaks it at each kind of moment.
func TestBrokenConnectionIsTellableFromDoneOrNot(t *testing.T) {
	t.Parallel()
	w, through := newWire(t, pg.Shared(t).Database(t))
	s := open(t, through)
	for _, row := range []struct {
		cut
		unknown bool // the store cannot know, and says so
		done    bool
	}{
		{cut{"begin", false}, false, true},
		{cut{"begin", true}, false, true},
		{cut{"UPDATE namespaces", false}, false, true},
		{cut{"INSERT INTO workspaces", true}, false, true},
		{cut{"commit\x00", false}, true, false},
		{cut{"commit\x00", true}, true, true},
	} {
		for _, key := range []string{"", "once"} {
			r := fresh("default")
			c := Creation{Records: []Record{r}, Events: []dayfly.Event{{Namespace: "default", Workspace: r.ID}}}
			if key != "" {
				c.Once.Key = string(r.ID)
			}
			// What is prepared already is sent by its name alone: begin with new connections.
			s.write.SetMaxIdleConns(0)
			s.write.SetMaxIdleConns(postgresConns)
			w.at.Store(&row.cut)
			_, _, err := s.Create(t.Context(), c)
			if row.unknown {
				want(t, err, dayfly.Unavailable)
				if !strings.Contains(err.Error(), "may or may not have been done") {
					t.Errorf("cut at %+v: %v", row.cut, err)
				}
			} else {
				no(t, err)
			}
			if w.at.Load() != nil {
				t.Fatalf("nothing was cut at %+v", row.cut)
			}
			_, before, err := s.Create(t.Context(), c)
			switch {
			case row.done && key != "":
				no(t, err)
				equal(t, before, true)
			case row.done:
				want(t, err, dayfly.Conflict)
			default:
				no(t, err)
				equal(t, before, false)
			}
			events, err := s.Events(t.Context(), dayfly.EventQuery{Workspace: r.ID})
			no(t, err)
			equal(t, len(events), 1)
		}
	}
}
