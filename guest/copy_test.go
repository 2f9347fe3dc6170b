package guest_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
)

// renewed is an honest agent's confirmation of every step.
func renewed(in wire.Renew) []wire.Confirmation {
	var all []wire.Confirmation
	for _, name := range wire.RequiredConfirmations() {
		value := map[string]string{
			wire.StepDiskKey: "kept", wire.StepEntropy: "64 bytes", wire.StepClock: in.Timestamp, wire.StepHostname: wire.HostName(in.Hostname, in.ID), wire.StepGeneration: in.Generation,
		}[name]
		if value == "" {
			value = "1"
		}
		all = append(all, wire.Confirmation{Name: name, Value: value})
	}
	return all
}

func TestRenewMissesNoStep(t *testing.T) {
	in := func() wire.Renew {
		return wire.Renew{
			Generation: "g", ID: "w", Identity: wire.IdentityNew, Entropy: make([]byte, 64), Timestamp: time.Now().Format(time.RFC3339Nano),
		}
	}
	all := renewed(in())
	var answer []wire.Confirmation
	s := newSession(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(wire.RenewReply{Confirmed: answer})
	}), "")
	answer = all
	if _, err := s.Renew(t.Context(), in()); err != nil {
		t.Fatal(err)
	}
	for i, c := range all {
		lies := []string{""}
		switch c.Name {
		case wire.StepEntropy:
			lies = append(lies, "32 bytes")
		case wire.StepClock:
			lies = append(lies, "yesterday", time.Now().Add(-2*time.Minute).Format(time.RFC3339Nano))
		case wire.StepHostname, wire.StepGeneration:
			lies = append(lies, "other")
		}
		for _, lie := range lies {
			answer = slices.Clone(all)
			answer[i].Value = lie
			var no *guest.Unconfirmed
			if _, err := s.Renew(t.Context(), in()); !errors.As(err, &no) || !slices.Equal(no.Missing, []string{c.Name}) {
				t.Errorf("%s is %q: Renew = %v", c.Name, lie, err)
			}
		}
		answer = slices.Delete(slices.Clone(all), i, i+1)
		var no *guest.Unconfirmed
		if _, err := s.Renew(t.Context(), in()); !errors.As(err, &no) || !slices.Equal(no.Missing, []string{c.Name}) {
			t.Errorf("without %s: Renew = %v", c.Name, err)
		}
	}
}

// TestClockCountsWhatARenewalTakes: on a busy host that is many seconds.
func TestClockCountsWhatARenewalTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const long = 20 * time.Second
		ahead := time.Duration(0)
		s := newSession(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var in wire.Renew
			_ = json.NewDecoder(r.Body).Decode(&in)
			time.Sleep(long) //nolint:forbidigo // of the time in the bubble
			in.Timestamp = time.Now().Add(ahead).Format(time.RFC3339Nano)
			_ = json.NewEncoder(w).Encode(wire.RenewReply{Confirmed: renewed(in)})
		}), "")
		renew := func() error {
			_, err := s.Renew(t.Context(), wire.Renew{
				Generation: "g", ID: "w", Identity: wire.IdentityNew, Entropy: make([]byte, 64), Timestamp: time.Now().Format(time.RFC3339Nano),
			})
			return err
		}
		if err := renew(); err != nil {
			t.Error(err)
		}
		ahead = 2 * time.Second
		var no *guest.Unconfirmed
		if err := renew(); !errors.As(err, &no) {
			t.Errorf("%s ahead: Renew = %v", ahead, err)
		}
	})
}

func TestInitThatSetNothingIsNoInit(t *testing.T) {
	s := newSession(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }), "")
	_, err := s.Init(t.Context(), wire.Init{ID: "w", Entropy: []byte{1}, Timestamp: time.Now().Format(time.RFC3339Nano), Root: &wire.Root{}})
	var no *guest.Unconfirmed
	if want := []string{wire.StepEntropy, wire.StepClock, wire.StepHostname, wire.StepMachineID}; !errors.As(err, &no) || !slices.Equal(no.Missing, want) {
		t.Errorf("Init = %v, want %v to be missing", err, want)
	}
}
