package guest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/boot"
	"github.com/dayfly/dayfly/guest/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hello = wire.Hello{Dayfly: wire.ProtocolVersion, Agent: "test"}

// newSession joins a host's session to a guest's that serves handler. stale is
// what lies in the channel ahead of the hello.
func newSession(t *testing.T, handler http.Handler, stale string) *guest.Session {
	t.Helper()
	host, inside := net.Pipe()
	sessions := boot.NewSessions(handler)
	served := make(chan error, 1)
	go func() {
		_, _ = io.WriteString(inside, stale)
		served <- sessions.Serve(inside, func() wire.Hello { return hello })
	}()
	s, got, err := guest.Open(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	got.Nonce, got.Calls = "", false
	if got != hello {
		t.Errorf("hello is %+v, want %+v", got, hello)
	}
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) { // an answer that nobody waits for any more
			t.Errorf("the guest's end: %v", err)
		}
		_ = sessions.Close()
	})
	return s
}

// newSessionOf is newSession with an agent whose lines are changed on their way.
func newSessionOf(t *testing.T, handler http.Handler, change func(line []byte) []byte) *guest.Session {
	t.Helper()
	host, inside := net.Pipe()
	sessions := boot.NewSessions(handler)
	served := make(chan error, 1)
	go func() {
		served <- sessions.Serve(changed{inside, change}, func() wire.Hello { return hello })
	}()
	s, _, err := guest.Open(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; err != nil {
			t.Errorf("the guest's end: %v", err)
		}
		_ = sessions.Close()
	})
	return s
}

type changed struct {
	net.Conn
	change func([]byte) []byte
}

func (c changed) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(c.change(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestStaleBytesAheadOfTheHelloAreDiscarded(t *testing.T) {
	newSession(t, http.NotFoundHandler(), "\x00\x01 the end of a frame\n{\"dayfly\":0}\n{not json\n"+strings.Repeat("x", 3*wire.MaxHello))
}

func TestDialReachesLoopbackPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	s := newSession(t, http.NotFoundHandler(), "")
	c, err := s.Dial(t.Context(), uint16(l.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "echo"); err != nil {
		t.Fatal(err)
	}
	var b [4]byte
	if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "echo" {
		t.Fatalf("it said %q, %v", b, err)
	}
}

func TestDialOfAShutPortSaysSo(t *testing.T) {
	s := newSession(t, http.NotFoundHandler(), "")
	_, err := s.Dial(t.Context(), 1)
	if dayfly.KindOf(err) != dayfly.Unavailable || !strings.Contains(err.Error(), "port 1") {
		t.Fatalf("Dial = %v", err)
	}
}

func TestInitClearsTheKey(t *testing.T) {
	var got string
	s := newSession(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.Path + " " + string(b)
		_, _ = io.WriteString(w, `{"kernel":"k","confirmed":[{"name":"hostname","value":"w1"},{"name":"machine-id","value":"0"}]}`)
	}), "")
	key := []byte("0123456789")
	reply, err := s.Init(t.Context(), wire.Init{ID: "w1", Root: &wire.Root{DiskKey: key}})
	if err != nil || reply.Kernel != "k" {
		t.Fatalf("Init = %+v, %v", reply, err)
	}
	if !strings.HasPrefix(got, "POST /init ") || !strings.Contains(got, `"disk_key":"MDEy`) {
		t.Errorf("the guest got %s", got)
	}
	if strings.Trim(string(key), "\x00") != "" {
		t.Errorf("the key is still %q", key)
	}
}

func TestRefusalIsTheGuestsOwnWords(t *testing.T) {
	s := newSession(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("crypt: no such device ", 1000), http.StatusInternalServerError)
	}), "")
	_, err := s.Init(t.Context(), wire.Init{})
	var no *guest.Refusal
	if !errors.As(err, &no) || no.Status != 500 || !strings.HasPrefix(no.Said, "crypt:") || len(no.Said) > 1024 {
		t.Fatalf("Init = %v", err)
	}
}

// TestOpenEndsWithItsContext: an agent that never answers holds nobody up.
func TestOpenEndsWithItsContext(t *testing.T) {
	host, inside := net.Pipe()
	defer inside.Close()
	why := errors.New("no word from the guest")
	ctx, cancel := context.WithCancelCause(t.Context())
	context.AfterFunc(ctx, func() {})
	go cancel(why)
	if _, _, err := guest.Open(ctx, host); !errors.Is(err, why) {
		t.Fatalf("Open = %v", err)
	}
}

func TestOtherProtocolIsRefusedWithTheRemedy(t *testing.T) {
	host, inside := net.Pipe()
	defer inside.Close()
	go func() { _, _ = io.Copy(io.Discard, inside) }()
	go func() { _, _ = fmt.Fprintf(inside, "{\"dayfly\":%d}\n", wire.ProtocolVersion+1) }()
	_, _, err := guest.Open(t.Context(), host)
	if dayfly.KindOf(err) != dayfly.Unavailable || !strings.Contains(err.Error(), "initramfs") {
		t.Fatalf("Open = %v", err)
	}
}

// FuzzGuest lets a guest say anything: the host must neither panic nor wait for
// longer than it was told.
func FuzzGuest(f *testing.F) {
	f.Add([]byte("{\"dayfly\":2}\n"))
	f.Add([]byte("\n{\"dayfly\":2,\"uptime_ms\":1,\"nonce\":\"NONCE\"}\ndayfly-ready NONCE\n\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("{\"dayfly\":2,\"nonce\":\"NONCE\"}\ndayfly-ready NONCE\n\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00HTTP/1.1 200 OK\r\n\r\n{}"))
	f.Fuzz(func(t *testing.T, said []byte) {
		host, inside := net.Pipe()
		go func() {
			defer inside.Close()
			in := bufio.NewReader(inside)
			for { // a guest that knows what it was asked gets further
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if nonce, ok := wire.CutWord(line, wire.Hail); ok {
					said = bytes.ReplaceAll(said, []byte("NONCE"), []byte(nonce))
					break
				}
			}
			go func() { _, _ = io.Copy(io.Discard, in) }()
			_, _ = inside.Write(said)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		s, _, err := guest.Open(ctx, host)
		if err != nil {
			return
		}
		defer s.Close()
		_, err = s.Init(ctx, wire.Init{})
		if ctx.Err() != nil {
			t.Fatalf("Init waited: %v", err)
		}
	})
}
