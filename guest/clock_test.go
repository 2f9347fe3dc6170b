package guest_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly/guest/wire"
)

// slow is an agent that is reached slowly, with a clock of its own.
type slow struct {
	ahead  time.Duration // of the host's clock
	delays func() (there, back time.Duration)
	best   time.Duration // of what it took to ask for the time
	asked  int
	steps  int
	old    bool // it knows nothing of /clock
}

func (a *slow) now() time.Time { return time.Now().Add(a.ahead) }

func (a *slow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	there, back := a.delays()
	time.Sleep(there)      //nolint:forbidigo // of the time in the bubble
	defer time.Sleep(back) //nolint:forbidigo // the same
	switch {
	case r.URL.Path == wire.ThawPath:
		var in wire.Thaw
		_ = json.NewDecoder(r.Body).Decode(&in)
		at, _ := time.Parse(time.RFC3339Nano, in.Timestamp)
		a.ahead = time.Until(at)
		a.best = there + back
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == wire.ClockPath && !a.old:
		var in wire.Clock
		_ = json.NewDecoder(r.Body).Decode(&in)
		a.ahead += time.Duration(in.Forward)
		if in.Forward != 0 {
			a.steps++
		} else {
			a.best = min(a.best, there+back)
			a.asked++
		}
		_ = json.NewEncoder(w).Encode(wire.ClockReply{Timestamp: a.now().UTC().Format(time.RFC3339Nano)})
	default:
		http.NotFound(w, r)
	}
}

// exact is how far a clock may be off whose message was under way for no longer.
const exact = 50 * time.Millisecond

// TestClockIsRightHoweverLongMessagesTake: to within half of what the fastest of
// them took.
func TestClockIsRightHoweverLongMessagesTake(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ms := rapid.SliceOfN(rapid.IntRange(0, 700), 2, 20).Draw(rt, "delays")
		next := func() time.Duration {
			d := time.Duration(ms[0]) * time.Millisecond
			ms = append(ms[1:], ms[0])
			return d
		}
		a := &slow{delays: func() (there, back time.Duration) { return next(), next() }}
		var took time.Duration
		synctest.Test(t, func(t *testing.T) {
			s := newSession(t, a, "")
			began := time.Now()
			if err := s.Thaw(t.Context()); err != nil {
				t.Fatal(err)
			}
			took = time.Since(began)
		})
		if most := max(exact, a.best/2); a.ahead.Abs() > most || took > 7*time.Second {
			rt.Errorf("after %s it is %s ahead, and %s would do", took, a.ahead, most)
		}
	})
}

// TestFastMessageIsEnough: nothing is asked of a guest that answers at once.
func TestFastMessageIsEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &slow{delays: func() (there, back time.Duration) { return 20 * time.Millisecond, 20 * time.Millisecond }}
		s := newSession(t, a, "")
		if err := s.Thaw(t.Context()); err != nil || a.asked+a.steps > 0 {
			t.Errorf("Thaw = %v; it was asked %d times and moved %d times", err, a.asked, a.steps)
		}
	})
}

// TestAgentWithoutAClockRouteIsThawed: its clock stays behind.
func TestAgentWithoutAClockRouteIsThawed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &slow{old: true, delays: func() (there, back time.Duration) { return time.Second, 0 }}
		s := newSession(t, a, "")
		if err := s.Thaw(t.Context()); err != nil || a.ahead != -time.Second {
			t.Errorf("Thaw = %v; its clock is %s ahead", err, a.ahead)
		}
	})
}
