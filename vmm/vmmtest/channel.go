package vmmtest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// channelOpensBeforeTheGuestIsUp writes at once, long before a guest can have
// booted: what is written waits there.
func channelOpensBeforeTheGuestIsUp(t *testing.T, s Setup) {
	k := dial(t, s.launch(t, s.config(t)))
	k.put("echo early")
	if hangUps := k.greeting(); hangUps != 0 {
		t.Errorf("a new guest has seen %d hang-ups", hangUps)
	}
	if got := k.line(); got != "ok early" {
		t.Errorf("answer to the early line: %q", got)
	}
	if got := k.must("echo late"); got != "late" {
		t.Errorf("echo says %q", got)
	}
}

// channelCarriesMuch sends lines without reading, so that both directions fill up.
func channelCarriesMuch(t *testing.T, s Setup) {
	k := meet(t, s.launch(t, s.config(t)))
	const lines = 64
	text := strings.Repeat("x", script.MaxLine/2)
	go func() {
		for range lines {
			if _, err := k.conn.Write([]byte("echo " + text + "\n")); err != nil {
				return // the reader below says so
			}
		}
	}()
	for i := range lines {
		if got := k.line(); got != "ok "+text {
			t.Fatalf("line %d came back with %d bytes, want %d", i, len(got), len(text)+3)
		}
	}
}

func channelIsOneConnection(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	if c, err := m.Channel(t.Context()); err == nil {
		_ = c.Close()
		t.Error("a second connection was made")
	} else {
		wantKind(t, err, dayfly.Conflict)
	}
	if got := k.must("echo still"); got != "still" {
		t.Errorf("echo says %q", got)
	}
}

// channelOpensAgainAtOnce leaves it open whether the guest has noticed that it
// is another connection.
func channelOpensAgainAtOnce(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	for i := range 8 {
		for range 2 { // closing again is nothing
			_ = k.conn.Close()
		}
		k = rejoin(t, m)
		if got := k.must("echo %d", i); got != string(rune('0'+i)) {
			t.Errorf("echo says %q", got)
		}
	}
}

func kernelParametersReachTheGuest(t *testing.T, s Setup) {
	c := s.config(t)
	c.Cmdline = append(slices.Clone(c.Cmdline), "conformance.seen=1")
	k := meet(t, s.launch(t, c))
	params := strings.Fields(k.must("cmdline"))
	if !slices.Contains(params, "conformance.seen=1") {
		t.Errorf("kernel parameters are %q", params)
	}
}

func everyCPURuns(t *testing.T, s Setup) {
	c := s.config(t)
	c.CPUs = 2
	k := meet(t, s.launch(t, c))
	if got := k.number("cpus"); got != 2 {
		t.Errorf("the guest runs on %d CPUs, want 2", got)
	}
	const span = 100 * time.Millisecond
	if slept := time.Duration(k.number("sleep %d", int64(span))); slept < span {
		t.Errorf("sleeping %s took %s", span, slept)
	}
}
