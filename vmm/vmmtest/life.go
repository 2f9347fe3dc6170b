package vmmtest

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// pauseStopsAndResumeContinues takes silence as the sign of a stopped guest, so
// that a slow host cannot fail it.
func pauseStopsAndResumeContinues(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	for range 2 { // the second time each is a no-op
		if err := m.Pause(t.Context()); err != nil {
			t.Fatalf("Pause: %v", err)
		}
	}
	k.put("echo paused")
	const silence = 300 * time.Millisecond
	if err := k.conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.in.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a paused guest answers: %v", err)
	}
	if err := k.conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Resume(t.Context()); err != nil {
			t.Fatalf("Resume: %v", err)
		}
	}
	if got := k.line(); got != "ok paused" {
		t.Errorf("after Resume the guest says %q", got)
	}
}

// guestClockKeepsTime compares clocks over a span, with bounds that only a
// clock at a wrong rate exceeds.
func guestClockKeepsTime(t *testing.T, s Setup) {
	k := meet(t, s.launch(t, s.config(t)))
	k.must("echo warm") // the first answer takes longer
	const span = 2 * time.Second
	began := time.Now()
	from := k.number("uptime")
	slept := time.Duration(k.number("sleep %d", int64(span)))
	host := time.Since(began)
	guest := time.Duration(k.number("uptime") - from)
	if slept < span || host < span*9/10 {
		t.Errorf("sleeping %s took %s in the guest and %s on the host", span, slept, host)
	}
	if ratio := guest.Seconds() / time.Since(began).Seconds(); ratio < 0.7 || ratio > 1.4 {
		t.Errorf("the guest's clock ran %.3f times as fast as the host's", ratio)
	}
}

func rebootIsPowerOff(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	k.must("say last words")
	k.put("reboot")
	if got := ended(t, m); got.Cause != vmm.PowerOff || got.Err != nil {
		t.Errorf("exit is %+v, want %s", got, vmm.PowerOff)
	}
	if !bytes.Contains(m.Console(), []byte("last words")) {
		t.Errorf("console holds %q", m.Console())
	}
}

func panicIsTold(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	k.put("panic")
	if got := ended(t, m); got.Cause != vmm.Panic {
		t.Errorf("exit is %+v, want %s", got, vmm.Panic)
	}
	if !bytes.Contains(m.Console(), []byte("Kernel panic")) {
		t.Errorf("console holds %q", m.Console())
	}
}

func crashIsTold(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	if err := s.crash(m); err != nil {
		t.Fatal(err)
	}
	if got := ended(t, m); got.Cause != vmm.Crash || got.Err == nil {
		t.Errorf("exit is %+v, want %s and an error", got, vmm.Crash)
	}
	if _, err := k.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading from a crashed machine: %v", err)
	}
}

// closeWorksInEveryState closes from several goroutines, and once more after.
func closeWorksInEveryState(t *testing.T, s Setup) {
	for name, bring := range map[string]func(*testing.T, vmm.Machine){
		"just launched": func(*testing.T, vmm.Machine) {},
		"running":       func(t *testing.T, m vmm.Machine) { meet(t, m) },
		"paused": func(t *testing.T, m vmm.Machine) {
			if err := m.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.config(t, driveSize)
			m := s.launch(t, c)
			bring(t, m)
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					if err := m.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
			}
			all.Wait()
			if got := ended(t, m); got.Cause != vmm.Closed || got.Err != nil {
				t.Errorf("exit is %+v, want %s", got, vmm.Closed)
			}
			if err := m.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
			wantEmpty(t, c.Dir)
		})
	}
}

func endedMachineRefuses(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	if got := m.Exit(); got != (vmm.Exit{}) {
		t.Errorf("a running machine has exit %+v", got)
	}
	k := meet(t, m)
	k.put("reboot")
	ended(t, m)
	wantKind(t, m.Pause(t.Context()), dayfly.Conflict)
	wantKind(t, m.Resume(t.Context()), dayfly.Conflict)
	if c, err := m.Channel(t.Context()); err == nil {
		_ = c.Close()
		t.Error("the channel of an ended machine opens")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if got := m.Exit().Cause; got != vmm.PowerOff {
		t.Errorf("Close changed the exit to %s", got)
	}
}

// consoleIsBounded reads while the guest floods, and after it has died.
func consoleIsBounded(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t))
	k := meet(t, m)
	for range 2 {
		k.must("flood %d", vmm.ConsoleBytes)
		if got := m.Console(); len(got) > vmm.ConsoleBytes || !bytes.Contains(got, []byte("flood")) {
			t.Errorf("console holds %d bytes, bound is %d", len(got), vmm.ConsoleBytes)
		}
	}
	k.put("panic")
	ended(t, m)
	got := m.Console()
	if len(got) > vmm.ConsoleBytes || !bytes.Contains(got, []byte("Kernel panic")) {
		t.Errorf("console holds %d bytes and ends with %q", len(got), got[max(0, len(got)-200):])
	}
}
