package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

func TestHostOnlyRoutesAreRefused(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.guest = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s reached the guest", r.URL) })
	base := serve(t, f)
	ws := create(t, base)
	paths := []string{
		wire.InitPath, wire.PoweroffPath, wire.FreezePath, wire.ThawPath, wire.ClockPath, wire.RenewPath, wire.RestPath, wire.RehearsePath, "/unfreeze", "/fsfreeze", "/fsthaw", "/collapse", "/upgrade", "/",
		"/health/..%2finit", "/files/%2e%2e/init", "/process.Process/..%2f..%2finit", "/process.Process/%2e%2e", "/INIT", "/files%2f..%2finit",
		"/process.Process/%252e%252e%252finit", "/process.Process/", "/%2finit",
	}
	for _, p := range paths {
		resp, body := call(t, "POST", base+"/v1/workspaces/"+string(ws.ID)+"/guest"+p, "{}")
		if resp.StatusCode != http.StatusForbidden || refused(t, body).Kind != dayfly.Denied {
			t.Errorf("%s: %s %s", p, resp.Status, body)
		}
	}
}

func TestRequestsPassThroughAsTheyAre(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.guest = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		user, _, _ := r.BasicAuth()
		w.Header().Set("Set-Cookie", "session=guest")
		w.Header().Set("X-Own", "kept")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.URL.RequestURI(), user, r.Header.Get("X-Forwarded-For"), b)
	})
	base := serve(t, f)
	ws := create(t, base)
	req, _ := http.NewRequestWithContext(t.Context(), "PATCH", base+"/v1/workspaces/"+string(ws.ID)+"/guest/files?path=%2Fa%20b&x", strings.NewReader("body"))
	req.SetBasicAuth("root", "")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if got, want := string(b), "PATCH /files?path=%2Fa%20b&x root  body"; got != want || resp.StatusCode != http.StatusTeapot {
		t.Errorf("%s %q, want %q", resp.Status, got, want)
	}
	if h := resp.Header; h.Get("X-Own") != "kept" || h.Get("Set-Cookie") != "" || h.Get("Content-Security-Policy") != "sandbox" {
		t.Errorf("headers: %v", h)
	}
}

// garbage dials a guest that answers every request with the same bytes.
func garbage(answer string) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			_, _ = http.ReadRequest(bufio.NewReader(far))
			_, _ = io.WriteString(far, answer)
		}()
		return near, nil
	}
}

func TestGarbageFromAGuestIsABadGateway(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing":       "",
		"noise":         strings.Repeat("\xff\x00secret", 1000),
		"bad status":    "HTTP/1.1 banana OK\r\n\r\n",
		"bad header":    "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
		"split header":  "HTTP/1.1 200 OK\r\nX: a\r\n",
		"huge header":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 2*maxGuestHeader) + "\r\n\r\n",
		"two lengths":   "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"bad length":    "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
		"unasked 101":   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"endless hints": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			f.dial = garbage(answer)
			base := serve(t, f)
			ws := create(t, base)
			resp, body := call(t, "POST", base+"/v1/workspaces/"+string(ws.ID)+"/guest/process.Process/List", "{}")
			if resp.StatusCode != http.StatusBadGateway || strings.Contains(body, "secret") {
				t.Fatalf("%s %.200s", resp.Status, body)
			}
			if e := refused(t, body); e.Kind != dayfly.Unavailable || e.Stage != "guest" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestTruncatedReplyOfAGuestIsSeenAsTruncated(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.dial = garbage("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	base := serve(t, f)
	ws := create(t, base)
	resp, err := http.Get(base + "/v1/workspaces/" + string(ws.ID) + "/guest/files?path=/a")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v", b, err)
	}
}

// echo is a guest that streams: what arrives is sent back while it arrives.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		_ = rc.Flush()
		if err != nil {
			return
		}
	}
})

func TestBothWaysStreamAtTheSameTime(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.guest = echo
	base := serve(t, f)
	ws := create(t, base)
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", base+"/v1/workspaces/"+string(ws.ID)+"/guest/process.Process/StreamInput", pr)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back := bufio.NewReader(resp.Body)
	for i := range 100 {
		said := fmt.Sprintf("line %d\n", i)
		_, _ = io.WriteString(pw, said)
		if heard, err := back.ReadString('\n'); heard != said || err != nil {
			t.Fatalf("heard %q, %v", heard, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(back); len(rest) != 0 || err != nil {
		t.Errorf("at the end: %q, %v", rest, err)
	}
}

func TestAnIdleUploadDoesNotHoldUpAGuestsEarlyAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"answers": "HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n",
		"dies":    "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake()
			f.dial = garbage(answer)
			base := serve(t, f)
			ws := create(t, base)
			pr, pw := io.Pipe()
			defer pw.Close()
			go func() { _, _ = pw.Write([]byte("first")) }() // and then nothing, without an end
			req, _ := http.NewRequestWithContext(t.Context(), "POST", base+"/v1/workspaces/"+string(ws.ID)+"/guest/process.Process/StreamInput", pr)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Errorf("body: %v", err)
			}
			if !resp.Close {
				t.Error("the connection would be used again with half a body in it")
			}
		})
	}
}

// TestNoStreamIsCut is the promise that Go's reverse proxy breaks without full
// duplex: a streaming reply that begins before the request body was read to
// its end.
func TestNoStreamIsCut(t *testing.T) {
	t.Parallel()
	const streams, workers = 1000, 8
	f := newFake()
	f.guest = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Content-Type", "application/connect+json")
		w.WriteHeader(http.StatusOK)
		_ = rc.Flush() // the reply begins before the body has been read
		b, err := io.ReadAll(r.Body)
		for i := range 5 {
			fmt.Fprintf(w, "%d %d %v\n", i, len(b), err)
			_ = rc.Flush()
		}
	})
	base := serve(t, f)
	ws := create(t, base)
	url := base + "/v1/workspaces/" + string(ws.ID) + "/guest/process.Process/Start"
	body := strings.Repeat("x", 3000)
	var want strings.Builder
	for i := range 5 {
		fmt.Fprintf(&want, "%d %d <nil>\n", i, len(body))
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range streams / workers {
				resp, err := http.Post(url, "application/connect+json", io.MultiReader(strings.NewReader(body[:1000]), strings.NewReader(body[1000:])))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if string(got) != want.String() || err != nil {
					t.Errorf("stream: %q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestNoConnectionIsSharedBetweenWorkspaces(t *testing.T) {
	t.Parallel()
	g := newGuests(newFake())
	a, b := dayfly.NewID(), dayfly.NewID()
	first := g.transport(a)
	if first == g.transport(b) || first != g.transport(a) {
		t.Error("transports are not one for each workspace")
	}
	g.forget(a)
	if g.transport(a) == first {
		t.Error("a forgotten workspace kept its connections")
	}
}
