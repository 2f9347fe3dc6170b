package boot

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

func TestChannelIsWhatTheHostSays(t *testing.T) {
	t.Parallel()
	for cmdline, want := range map[string]bool{
		"":                                   false,
		"quiet panic=-1":                     false,
		"quiet dayfly.channel=vsock panic=1": true,
		"quiet dayfly.channel=vsock":         true,
		"xdayfly.channel=vsock":              false,
		"dayfly.channel=vsocks":              false,
	} {
		if got := isVsock(cmdline); got != want {
			t.Errorf("isVsock of %q = %v", cmdline, got)
		}
	}
}

// TestLastConnectionCounts has hosts come one after the other, some of which
// hang up and some of which stay, on a socket of another kind: not every kernel
// has vsock to itself.
func TestLastConnectionCounts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := listenSocket(unix.AF_UNIX, &unix.SockaddrUnix{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	sessions := NewSessions(http.NotFoundHandler())
	defer sessions.Close()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- l.serve(ctx, sessions, func() wire.Hello { return wire.Hello{Dayfly: wire.ProtocolVersion, Agent: "test"} })
	}()
	var stayed []*bufio.Reader
	for i := range 4 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in := bufio.NewReader(c)
		nonce := strings.Repeat(string(rune('a'+i)), wire.NonceLen)
		if _, err := io.WriteString(c, wire.Hail+nonce+"\n"); err != nil {
			t.Fatal(err)
		}
		for line := ""; !strings.Contains(line, nonce); {
			if line, err = in.ReadString('\n'); err != nil {
				t.Fatalf("connection %d gets no answer: %v", i, err)
			}
		}
		if i%2 == 0 {
			_ = c.Close()
		} else {
			stayed = append(stayed, in)
		}
	}
	// The one that stayed and was not the last has ended.
	if _, err := io.Copy(io.Discard, stayed[0]); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("an earlier connection: %v", err)
	}
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Errorf("serve = %v", err)
	}
}
