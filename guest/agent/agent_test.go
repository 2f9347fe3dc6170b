package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly/guest/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(reaperChild) != "" {
		os.Exit(m.Run()) // see reaper_test.go; it looks for leaks of its own kind
	}
	goleak.VerifyTestMain(m)
}

// rig is an agent behind a real listener, and a client of it.
type rig struct {
	*Agent
	t   testing.TB
	url string
	cli *wire.Client
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	a := New(cfg)
	s := httptest.NewServer(a.Handler())
	hc := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(func() {
		hc.CloseIdleConnections()
		s.CloseClientConnections()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return &rig{a, t, s.URL, &wire.Client{HTTP: hc, Base: s.URL, Header: http.Header{}}}
}

// as returns a client that acts as a user.
func (r *rig) as(user string) *wire.Client {
	c := *r.cli
	c.Header = c.Header.Clone()
	c.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	return &c
}

// result is what a process did.
type result struct {
	pid                 uint32
	stdout, stderr, pty string
	end                 wire.EndEvent
}

func sh(script string) *wire.StartRequest {
	return &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}}}
}

// begin starts a process and returns after its start event.
func begin(t testing.TB, c *wire.Client, procedure string, req any) (*wire.Stream, uint32) {
	t.Helper()
	s, err := c.ServerStream(t.Context(), procedure, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var ev wire.EventResponse
	if err := s.Receive(&ev); err != nil {
		t.Fatalf("start: %v", err)
	}
	if ev.Event.Start == nil {
		t.Fatalf("first event is %+v, want start", ev.Event)
	}
	return s, ev.Event.Start.PID
}

// finish reads a stream to its end.
func finish(s *wire.Stream, pid uint32) (r result, err error) {
	var stdout, stderr, pty bytes.Buffer
	r.pid = pid
	for {
		var ev wire.EventResponse
		if err = s.Receive(&ev); err != nil {
			break
		}
		switch e := ev.Event; {
		case e.Data != nil:
			stdout.Write(e.Data.Stdout)
			stderr.Write(e.Data.Stderr)
			pty.Write(e.Data.PTY)
		case e.End != nil:
			r.end = *e.End
		}
	}
	r.stdout, r.stderr, r.pty = stdout.String(), stderr.String(), pty.String()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return r, err
}

// run runs a process to its end.
func run(t testing.TB, c *wire.Client, req *wire.StartRequest) result {
	t.Helper()
	s, pid := begin(t, c, wire.ProcessStart, req)
	r, err := finish(s, pid)
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return r
}

// startError returns how starting a process fails.
func startError(t testing.TB, c *wire.Client, req *wire.StartRequest) error {
	t.Helper()
	s, err := c.ServerStream(t.Context(), wire.ProcessStart, req)
	if err != nil {
		return err
	}
	defer s.Close()
	var ev wire.EventResponse
	if err := s.Receive(&ev); err != nil {
		return err
	}
	t.Fatalf("started: %+v", ev)
	return nil
}

// eventually waits for a condition that has no event to wait for.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// do sends a plain HTTP request. h is pairs of names and values.
func (r *rig) do(method, path string, body io.Reader, h ...string) (*http.Response, []byte) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, r.url+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(h); i += 2 {
		req.Header.Set(h[i], h[i+1])
	}
	resp, err := r.cli.HTTP.Transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, b
}

// refused checks the status and the body of a plain refusal.
func (r *rig) refused(resp *http.Response, body []byte, status int, text string) {
	r.t.Helper()
	var e errorBody
	if resp.StatusCode != status || json.Unmarshal(body, &e) != nil || e.Code != status || !strings.Contains(e.Message, text) {
		r.t.Errorf("got %s: %s\nwant %d with %q", resp.Status, body, status, text)
	}
}

func (r *rig) init(in wire.Init) {
	r.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		r.t.Fatal(err)
	}
	if resp, b := r.do("POST", wire.InitPath, bytes.NewReader(body)); resp.StatusCode != http.StatusOK {
		r.t.Fatalf("init: %s: %s", resp.Status, b)
	}
}
