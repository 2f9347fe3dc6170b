package guest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
)

func renewal() wire.Renew {
	return wire.Renew{
		Generation: "g", ID: "w", Identity: wire.IdentitySame, Entropy: make([]byte, 64), Timestamp: time.Now().Format(time.RFC3339Nano),
	}
}

// honest renews and thaws, and notes by which way it was asked: only what came
// over a stream has an address.
func honest(byStream *[]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RemoteAddr != "" {
			*byStream = append(*byStream, r.URL.Path)
		}
		switch r.URL.Path {
		case wire.RenewPath:
			var in wire.Renew
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = json.NewEncoder(w).Encode(wire.RenewReply{Confirmed: renewed(in)})
		case wire.ThawPath:
			w.WriteHeader(http.StatusNoContent)
		default:
			_, _ = w.Write([]byte(`{}`))
		}
	})
}

func TestCopyIsRenewedAheadOfStreams(t *testing.T) {
	var byStream []string
	s := newSession(t, honest(&byStream), "")
	if _, err := s.Renew(t.Context(), renewal()); err != nil {
		t.Fatal(err)
	}
	if err := s.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(byStream) > 0 {
		t.Errorf("%q came over streams", byStream)
	}
	if _, err := s.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(t.Context(), renewal()); err != nil {
		t.Fatal(err)
	}
	if want := []string{wire.FreezePath, wire.RenewPath}; fmt.Sprint(byStream) != fmt.Sprint(want) {
		t.Errorf("%q came over streams, want %q", byStream, want)
	}
}

// TestCallTooLongForALineTakesAStream: of a workspace with many variables.
func TestCallTooLongForALineTakesAStream(t *testing.T) {
	var byStream []string
	s := newSession(t, honest(&byStream), "")
	in := renewal()
	in.EnvVars = map[string]string{"LONG": strings.Repeat("x", wire.MaxCall)}
	if _, err := s.Renew(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if len(byStream) != 1 {
		t.Errorf("%q came over streams", byStream)
	}
}

func TestRefusedCallLeavesTheSessionGood(t *testing.T) {
	s := newSession(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.RenewPath {
			http.Error(w, "not today", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}), "")
	var no *guest.Refusal
	if _, err := s.Renew(t.Context(), renewal()); !errors.As(err, &no) || no.Status != http.StatusServiceUnavailable || !strings.Contains(no.Said, "not today") {
		t.Errorf("Renew = %v", err)
	}
	if err := s.Thaw(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOnlyTheHostsCallsAreTakenAhead: an agent that is asked for anything else
// says that there is no such thing.
func TestOnlyTheHostsCallsAreTakenAhead(t *testing.T) {
	p := newPort()
	err := hearOn(p, func(p *port) {
		n := strings.Repeat("d", wire.NonceLen)
		c := p.connect()
		_, _ = io.WriteString(c, wire.Hail+n+"\n"+string(wire.Call{Nonce: n, Path: wire.PoweroffPath}.AppendLine(nil)))
		want := wire.Answer{Nonce: n, Status: http.StatusNotFound}.AppendLine(nil)
		if got := readTo(c, want); !bytes.HasSuffix(got, want) {
			t.Errorf("it said %q", got)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// readTo reads until end was read, or nothing is left.
func readTo(c net.Conn, end []byte) (all []byte) {
	b := make([]byte, 1)
	for !bytes.HasSuffix(all, end) {
		if _, err := c.Read(b); err != nil {
			break
		}
		all = append(all, b...)
	}
	return all
}

// TestEndedCallerLeavesNothing: a call whose context ends ends the session, as
// nobody knows what the agent will still say.
func TestEndedCallerLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	s := newSession(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-release
	}), "")
	_, err := s.Renew(ctx, renewal())
	close(release) // what it answers then, nobody reads
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Renew = %v", err)
	}
	<-s.Done()
}

// TestAgentOfAnEarlierReleaseIsAskedByStreams: it says nothing of calls.
func TestAgentOfAnEarlierReleaseIsAskedByStreams(t *testing.T) {
	var byStream []string
	s := newSessionOf(t, honest(&byStream), func(line []byte) []byte {
		return bytes.Replace(line, []byte(`,"calls":true`), nil, 1)
	})
	if _, err := s.Renew(t.Context(), renewal()); err != nil {
		t.Fatal(err)
	}
	if len(byStream) != 1 {
		t.Errorf("%q came over streams", byStream)
	}
}
