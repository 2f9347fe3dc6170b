package control_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
)

// after waits in the bubble's time, and for what is due then.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
	<-time.After(5 * time.Millisecond)
}

// rules runs a test in a bubble, where waiting costs nothing.
func rules(t *testing.T, f func(*testing.T, *world), change ...func(*control.Options)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, change...)) })
}

func (w *world) is(id dayfly.ID, s dayfly.State) {
	w.t.Helper()
	ws, err := w.Get(w.t.Context(), id)
	switch {
	case err != nil && (s != dayfly.Deleted || dayfly.KindOf(err) != dayfly.NotFound):
		w.t.Fatal(err)
	case err == nil && ws.State != s:
		w.t.Fatalf("it is %s (%s), not %s", ws.State, ws.Reason, s)
	}
}

func TestTimeIsUpToTheSecond(t *testing.T) {
	for action, want := range map[dayfly.Action]dayfly.State{"": dayfly.Deleted, dayfly.StopIt: dayfly.Stopped, dayfly.PauseIt: dayfly.Paused} {
		t.Run(string(want), func(t *testing.T) {
			rules(t, func(t *testing.T, w *world) {
				ws := w.create(dayfly.Spec{Image: "base", Timeout: 90, OnTimeout: action})
				after(89 * time.Second)
				w.is(ws.ID, dayfly.Running)
				after(time.Second)
				w.is(ws.ID, want)
				if want == dayfly.Deleted {
					w.nothing()
					return
				}
				if got, err := w.Start(t.Context(), ws.ID); err != nil || got.ExpiresAt == nil || time.Until(*got.ExpiresAt) < 89*time.Second {
					t.Fatalf("the time does not count anew: %+v, %v", got, err)
				}
			})
		})
	}
}

func TestKeepAliveCountsFromNow(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Timeout: 60})
		after(50 * time.Second)
		if _, err := w.KeepAlive(t.Context(), ws.ID, nil); err != nil {
			t.Fatal(err)
		}
		after(50 * time.Second)
		w.is(ws.ID, dayfly.Running)
		five := 5
		if _, err := w.KeepAlive(t.Context(), ws.ID, &five); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		w.is(ws.ID, dayfly.Deleted)
	})
}

func TestTimeGoesOnWhileTheServerIsAway(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		soon := w.create(dayfly.Spec{Image: "base", Timeout: 60})
		late := w.create(dayfly.Spec{Image: "base", Timeout: 200, Idle: dayfly.Idle{PauseAfter: 150}})
		after(30 * time.Second)
		w.close()
		after(60 * time.Second)
		w.open()
		after(time.Second)
		w.is(soon.ID, dayfly.Deleted)
		w.is(late.ID, dayfly.Running)
		after(50 * time.Second)
		w.is(late.ID, dayfly.Running)
		after(10 * time.Second)
		w.is(late.ID, dayfly.Paused)
	})
}

func TestIdleWorkspaceIsPausedThenStopped(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Idle: dayfly.Idle{PauseAfter: 100, StopAfter: 300}})
		after(90 * time.Second)
		conn, err := w.Dial(t.Context(), ws.ID, 80)
		if err != nil {
			t.Fatal(err)
		}
		after(1000 * time.Second)
		w.is(ws.ID, dayfly.Running) // in use all the time
		conn.Close()
		after(99 * time.Second)
		w.is(ws.ID, dayfly.Running)
		after(time.Second)
		w.is(ws.ID, dayfly.Paused)
		after(199 * time.Second)
		w.is(ws.ID, dayfly.Paused)
		after(time.Second)
		w.is(ws.ID, dayfly.Stopped)
		if w.stored(ws.ID).StoppedByCaller {
			t.Error("a rule is taken for a caller")
		}
	})
}

func TestPauseByACallerIsNotStoppedByIdleness(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Idle: dayfly.Idle{PauseAfter: 10, StopAfter: 30}})
		if _, err := w.Pause(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Minute)
		w.is(ws.ID, dayfly.Paused)
	})
}

func TestUsesAreNotWrittenEachTime(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(base)
		revision := w.stored(ws.ID).Revision
		for range 120 {
			conn, err := w.Dial(t.Context(), ws.ID, 80)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			after(time.Second)
		}
		if n := w.stored(ws.ID).Revision - revision; n < 1 || n > 3 {
			t.Errorf("%d writes in two minutes", n)
		}
		if used := w.get(ws.ID).UsedAt; used == nil || time.Since(*used) > 3*time.Second {
			t.Errorf("last use %v, now %v", used, time.Now())
		}
	})
}

func TestMachineThatFailsIsRestartedWithBackoff(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Restart: dayfly.Restart{Policy: dayfly.RestartOnFailure, Max: 4}})
		for n, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
			w.node.die(t, ws.ID)
			after(pause - 100*time.Millisecond)
			w.is(ws.ID, dayfly.Failed)
			after(100 * time.Millisecond)
			w.is(ws.ID, dayfly.Running)
			if got := w.get(ws.ID).Restarts; got != n+1 {
				t.Fatalf("%d restarts, not %d", got, n+1)
			}
		}
		w.node.die(t, ws.ID)
		after(5 * time.Minute)
		w.is(ws.ID, dayfly.Failed) // four were allowed
		if n := count(w.events(ws.ID), dayfly.WorkspaceRestarted); n != 4 {
			t.Errorf("%d restarts were told", n)
		}
	})
}

func count(list []dayfly.EventType, t dayfly.EventType) int {
	return len(slices.DeleteFunc(slices.Clone(list), func(e dayfly.EventType) bool { return e != t }))
}

func TestTenMinutesOfRunningForgiveRestarts(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Restart: dayfly.Restart{Policy: dayfly.RestartAlways, Max: 1}})
		for range 3 {
			w.node.die(t, ws.ID)
			after(2 * time.Second)
			w.is(ws.ID, dayfly.Running)
			after(10 * time.Minute)
			if n := w.get(ws.ID).Restarts; n != 0 {
				t.Fatalf("%d restarts are remembered", n)
			}
		}
	})
}

func TestCallerWhoStopsEndsRestarts(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Restart: dayfly.Restart{Policy: dayfly.RestartAlways}})
		w.node.die(t, ws.ID)
		after(500 * time.Millisecond)
		if _, err := w.Stop(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Minute)
		w.is(ws.ID, dayfly.Stopped)
	})
}

func TestServerStartsWhatItsPolicySays(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		want := map[dayfly.ID]dayfly.State{}
		for policy, s := range map[dayfly.RestartPolicy]dayfly.State{
			dayfly.RestartNo: dayfly.Stopped, dayfly.RestartOnFailure: dayfly.Stopped,
			dayfly.RestartUnlessStopped: dayfly.Stopped, dayfly.RestartAlways: dayfly.Running,
		} {
			ws := w.create(dayfly.Spec{Image: "base", Restart: dayfly.Restart{Policy: policy}})
			if _, err := w.Stop(t.Context(), ws.ID); err != nil {
				t.Fatal(err)
			}
			want[ws.ID] = s
		}
		idle := w.create(dayfly.Spec{Image: "base", Idle: dayfly.Idle{StopAfter: 5}, Restart: dayfly.Restart{Policy: dayfly.RestartUnlessStopped}})
		after(5 * time.Second)
		w.is(idle.ID, dayfly.Stopped)
		want[idle.ID] = dayfly.Running // a rule has stopped it, not a caller
		w.reopen()
		after(time.Second)
		for id, s := range want {
			w.is(id, s)
		}
	})
}

func TestClockThatStepsFiresWhatIsDue(t *testing.T) {
	var step atomic.Int64
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Timeout: 100, OnTimeout: dayfly.StopIt})
		step.Store(int64(-50 * time.Second))
		after(140 * time.Second)
		w.is(ws.ID, dayfly.Running)
		after(10 * time.Second)
		w.is(ws.ID, dayfly.Stopped)
		if _, err := w.Start(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		step.Store(int64(time.Hour))
		after(time.Second)
		w.is(ws.ID, dayfly.Stopped)
	}, func(o *control.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
	})
}

func TestRuleThatIsRefusedIsTriedAgain(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(dayfly.Spec{Image: "base", Timeout: 10, OnTimeout: dayfly.PauseIt})
		var refuse atomic.Bool
		refuse.Store(true)
		w.node.mu.Lock()
		w.node.fails = func(verb string, _ dayfly.Workspace) error {
			if refuse.Load() {
				return dayfly.Errorf(dayfly.Exhausted, "the disk is full")
			}
			return nil
		}
		w.node.mu.Unlock()
		after(14 * time.Second)
		w.is(ws.ID, dayfly.Running)
		refuse.Store(false)
		after(2 * time.Second)
		w.is(ws.ID, dayfly.Paused)
	})
}

func TestChangeThatNobodyToldOfIsNoticed(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(base)
		w.node.mu.Lock()
		w.node.changed = nil
		w.node.mu.Unlock()
		w.node.die(t, ws.ID)
		w.is(ws.ID, dayfly.Running)
		after(31 * time.Second)
		w.is(ws.ID, dayfly.Failed)
	})
}
