package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly/dayfly"
)

// oneCaller serves one connection within a bubble, whose time is not real, and
// returns the caller's end of it.
func oneCaller(t *testing.T, o Options) (net.Conn, func()) {
	t.Helper()
	near, far := net.Pipe()
	s := New(o)
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 30 * time.Second}
	done := make(chan struct{})
	closed := make(chan struct{})
	srv.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateClosed {
			close(closed)
		}
	}
	go func() {
		defer close(done)
		_ = srv.Serve(&oneConn{conn: far})
	}()
	return near, func() {
		_ = near.Close()
		<-closed
		<-done
		_ = srv.Close()
		_ = s.Close()
	}
}

func TestBodyThatDoesNotComeIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, end := oneCaller(t, Options{Workspaces: newFake()})
		began := time.Now()
		go func() {
			_, _ = io.WriteString(conn, "POST /v1/workspaces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 400 || !strings.Contains(string(b), "did not come within 30s") || time.Since(began) > bodyTimeout+restTimeout {
			t.Errorf("after %s: %s %s", time.Since(began), resp.Status, b)
		}
		end()
	})
}

// news has one event at a time, and never an end of them.
type news struct {
	mu  sync.Mutex
	seq int64
}

func (n *news) Events(context.Context, dayfly.EventQuery) ([]dayfly.Event, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	return []dayfly.Event{{Seq: n.seq, Type: dayfly.WorkspaceCreated, Reason: strings.Repeat("x", 1<<10)}}, nil
}

func (n *news) LastEvent(context.Context) (int64, error) { return 0, nil }

func (n *news) AwaitEvent(ctx context.Context, _ int64) error { return ctx.Err() }

func TestReaderThatTakesNothingIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &news{}
		conn, end := oneCaller(t, Options{Workspaces: newFake(), Events: n})
		began := time.Now()
		_, _ = io.WriteString(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
		_, _ = conn.Read(make([]byte, 1<<10))   // and no more
		time.Sleep(streamTimeout + time.Second) //nolint:forbidigo // of the time in the bubble
		synctest.Wait()
		n.mu.Lock()
		made := n.seq
		n.mu.Unlock()
		if made > 16 {
			t.Errorf("%d events were made for a reader that takes none", made)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil || time.Since(began) > streamTimeout+2*time.Second {
			t.Errorf("it was cut off after %s: %v", time.Since(began), err)
		}
		end()
	})
}

// quiet has no events.
type quiet struct{}

func (quiet) Events(context.Context, dayfly.EventQuery) ([]dayfly.Event, error) { return nil, nil }
func (quiet) LastEvent(context.Context) (int64, error)                          { return 0, nil }
func (quiet) AwaitEvent(ctx context.Context, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestSilentStreamsBeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, end := oneCaller(t, Options{Workspaces: newFake(), Events: quiet{}})
		began := time.Now()
		_, _ = io.WriteString(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
		in := bufio.NewScanner(conn)
		for beats := 0; beats < 3 && in.Scan(); {
			if in.Text() == ": still there" {
				beats++
			}
		}
		if time.Since(began) != 3*heartbeat {
			t.Errorf("three beats took %s", time.Since(began))
		}
		end()
	})
}

func TestFailuresAreForgottenInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		for range 10 * failBurst {
			if l.wait("192.0.2.1") == 0 {
				l.failed("192.0.2.1")
			}
		}
		if w := l.wait("192.0.2.1"); w <= 0 || w > failEvery || l.wait("192.0.2.2") != 0 {
			t.Errorf("it waits %s", w)
		}
		time.Sleep(failEvery) //nolint:forbidigo // of the time in the bubble
		if w := l.wait("192.0.2.1"); w != 0 {
			t.Errorf("it still waits %s", w)
		}
		if a, b := network("2001:db8::1"), network("2001:db8::2"); a != b || network("::ffff:192.0.2.1") != network("192.0.2.1") {
			t.Error(a, b)
		}
	})
}
