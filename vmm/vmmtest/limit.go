package vmmtest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// drivesAreNoFasterThanTheirLimits takes half the time that the limit asks for
// as proof: a busy host makes guests slower, and never faster.
func drivesAreNoFasterThanTheirLimits(t *testing.T, s Setup) {
	const amount = 3 << 20
	for _, c := range []struct {
		name, verb string
		limit      vmm.Limit
		least      time.Duration
	}{
		{"bytes written", "fill", vmm.Limit{WriteBytes: amount / 3}, 3 * time.Second},
		{"bytes read", "drain", vmm.Limit{ReadBytes: amount / 3}, 3 * time.Second},
		{"operations", "fill", vmm.Limit{WriteOps: 16}, 3 * time.Second}, // 48 blocks
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := s.config(t, 4<<20)
			m.Drives[0].Limit = c.limit
			k := meet(t, s.launch(t, m))
			began := time.Now()
			k.must("%s 0 %d", c.verb, amount)
			if took := time.Since(began); took < c.least/2 {
				t.Errorf("%d bytes took %s, and at least %s by the limit", amount, took, c.least)
			}
		})
	}
}

// crawl is a limit by which what the tests write takes an hour.
var crawl = vmm.Limit{WriteBytes: 1 << 10}

const crawled = 4 << 20

// limitIsSetAndLiftedWhileItRuns waits for what would take an hour otherwise.
func limitIsSetAndLiftedWhileItRuns(t *testing.T, s Setup) {
	m := s.launch(t, s.config(t, crawled))
	k := meet(t, m)
	if err := m.LimitDrive(t.Context(), 0, crawl); err != nil {
		t.Fatalf("LimitDrive: %v", err)
	}
	k.put("fill 0 %d", crawled)
	silent(t, k)
	if err := m.LimitDrive(t.Context(), 0, vmm.Limit{}); err != nil {
		t.Fatalf("LimitDrive: %v", err)
	}
	if got := k.line(); got != "ok " {
		t.Errorf("fill says %q", got)
	}
	wantKind(t, m.LimitDrive(t.Context(), 1, crawl), dayfly.Invalid)
	wantKind(t, m.LimitDrive(t.Context(), 0, vmm.Limit{ReadOps: -1}), dayfly.Invalid)
}

// silent fails the test if the guest says something.
func silent(t *testing.T, k *talk) {
	t.Helper()
	const silence = 300 * time.Millisecond
	if err := k.conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
		t.Fatal(err)
	}
	if b, err := k.in.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the guest says %q, %v", b, err)
	}
	if err := k.conn.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
}

// limitsAreNotSaved also lets another owner have the machine that has one.
func limitsAreNotSaved(t *testing.T, s Setup) {
	c := s.config(t, crawled)
	c.Orphan = true
	c.Drives[0].Limit = crawl
	m := s.launch(t, c)
	meet(t, m)
	from := save(t, m)
	copied := c
	copied.Orphan = false
	copied.Drives = []vmm.Drive{{Path: sparse(t, t.TempDir(), crawled)}}
	rejoin(t, s.restore(t, copied, from)).must("fill 0 %d", crawled)

	leave(t, m)
	m = s.adopt(t, c)
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	k := rejoin(t, m)
	k.put("fill 0 %d", crawled)
	silent(t, k)
	// What waits for its limit keeps nobody else waiting.
	s.push(t, m, 0, filepath.Join(t.TempDir(), "pushed"))
	save(t, m)
}

func nicsAreNoFasterThanTheirLimits(t *testing.T, s Setup) {
	tap := s.newTAP(t)
	c := s.config(t)
	c.NICs = []vmm.NIC{{TAP: tap.name, MAC: firstMAC, Limit: vmm.Limit{WriteOps: 10}}}
	if s.lacks().NICLimits {
		m, err := s.Driver.Launch(t.Context(), c)
		if err == nil {
			_ = m.Close()
		}
		wantKind(t, err, dayfly.Unavailable)
		wantEmpty(t, c.Dir)
		return
	}
	k := meet(t, s.launch(t, c))
	k.must("listen " + firstMAC)
	tap.meets(firstMAC, "first")
	const frames, atOnce = 40, 1
	began := time.Now()
	tap.floods(firstMAC, frames)
	if took, least := time.Since(began), (frames-atOnce)*time.Second/10; took < least/2 {
		t.Errorf("%d frames took %s, and at least %s by the limit", frames, took, least)
	}
}
