package vmmtest

import (
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

const (
	firstMAC  = "06:00:0a:00:00:02"
	secondMAC = "06:00:0a:00:00:03"
)

// framesReachTheNICTheyAreSentTo has two NICs, each with a TAP of its own.
func framesReachTheNICTheyAreSentTo(t *testing.T, s Setup) {
	one, two := s.newTAP(t), s.newTAP(t)
	c := s.config(t, driveSize)
	c.NICs = []vmm.NIC{{TAP: one.name, MAC: firstMAC}, {TAP: two.name, MAC: secondMAC}}
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("listen " + firstMAC)
	k.must("listen " + secondMAC)
	one.meets(firstMAC, "to the first")
	two.meets(secondMAC, "to the second")
	const silence = 300 * time.Millisecond // what answers answers at once
	if one.asks(secondMAC, "astray", silence) {
		t.Error("a frame has crossed from one device to the other")
	}
	if got := k.must("read 0 0 1"); got != "00" {
		t.Errorf("the drive beside them holds %s", got)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	s.free(t, one)
	s.free(t, two)
}

// savedMachineGoesOnOnAnotherTAP keeps the first running beside its copy.
func savedMachineGoesOnOnAnotherTAP(t *testing.T, s Setup) {
	one, two := s.newTAP(t), s.newTAP(t)
	c := s.config(t)
	c.NICs = []vmm.NIC{{TAP: one.name, MAC: firstMAC}}
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("listen " + firstMAC)
	one.meets(firstMAC, "before")
	from := save(t, m)
	const silence = 300 * time.Millisecond
	if one.asks(firstMAC, "asleep", silence) {
		t.Error("a paused guest answers")
	}

	copied := c
	copied.NICs = []vmm.NIC{{TAP: two.name, MAC: firstMAC}}
	child := s.restore(t, copied, from)
	two.meets(firstMAC, "after")
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	one.meets(firstMAC, "beside")
	two.meets(firstMAC, "as before")

	if err := s.crash(child); err != nil {
		t.Fatal(err)
	}
	ended(t, child)
	s.free(t, two)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	rejoin(t, s.restore(t, c, from)) // on a TAP that a machine has had
	one.meets(firstMAC, "again")
}

func orphanGoesOnWithItsNICs(t *testing.T, s Setup) {
	tap := s.newTAP(t)
	c := s.config(t)
	c.Orphan = true
	c.NICs = []vmm.NIC{{TAP: tap.name, MAC: firstMAC}}
	m := s.launch(t, c)
	k := meet(t, m)
	k.must("listen " + firstMAC)
	leave(t, m)
	tap.meets(firstMAC, "alone")
	m = s.adopt(t, c)
	tap.meets(firstMAC, "with another owner")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	s.free(t, tap)
}

// tapIsOneMachines also launches with a TAP that is not there, and with what is
// none.
func tapIsOneMachines(t *testing.T, s Setup) {
	tap := s.newTAP(t)
	c := s.config(t)
	c.NICs = []vmm.NIC{{TAP: tap.name, MAC: firstMAC}}
	first := s.launch(t, c)
	for name, want := range map[string]dayfly.Kind{tap.name: dayfly.Conflict, tapMark + "-none": dayfly.Invalid, "lo": dayfly.Invalid} {
		other := c
		other.Dir = t.TempDir()
		other.NICs = []vmm.NIC{{TAP: name, MAC: firstMAC}}
		m, err := s.Driver.Launch(t.Context(), other)
		if err == nil {
			_ = m.Close()
		}
		wantKind(t, err, want)
		wantEmpty(t, other.Dir)
		if s.Orphans == nil {
			continue
		}
		if pids, err := s.Orphans(other.Dir); err != nil || len(pids) > 0 {
			t.Errorf("still running: %v, %v", pids, err)
		}
	}
	k := meet(t, first)
	k.must("listen " + firstMAC)
	tap.meets(firstMAC, "still its")
}

func machineWithoutNICsHasNone(t *testing.T, s Setup) {
	k := meet(t, s.launch(t, s.config(t)))
	if _, err := k.ask("listen " + firstMAC); err == nil {
		t.Error("the guest has a network device")
	}
}
