package control_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/guest/agent"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/store"
)

// fakeGuest is an agent with a main command that ends when it is told to, and a
// ready check whose answers are given.
type fakeGuest struct {
	mu     sync.Mutex
	starts int
	main   chan int             // the exit code of the one that runs; nil: none does
	check  func() (int, string) // exit code and output
	config wire.ProcessConfig   // of the last main command
}

func (g *fakeGuest) handler(dayfly.ID) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case wire.ProcessStart:
			wire.ServeStream(w, r, func(ctx context.Context, req *wire.StartRequest, s *wire.ResponseStream) error {
				if req.Tag == nil {
					code, out := g.check()
					_ = send(s, wire.ProcessEvent{Start: &wire.StartEvent{PID: 2}})
					_ = send(s, wire.ProcessEvent{Data: &wire.DataEvent{Stdout: wire.Bytes(out)}})
					return end(s, code)
				}
				g.mu.Lock()
				g.starts++
				g.main, g.config = make(chan int, 1), *req.Process
				main := g.main
				g.mu.Unlock()
				_ = send(s, wire.ProcessEvent{Start: &wire.StartEvent{PID: 1}})
				_ = send(s, wire.ProcessEvent{Data: &wire.DataEvent{Stdout: wire.Bytes("began\n")}})
				return g.follow(ctx, s, main)
			})
		case wire.ProcessConnect:
			wire.ServeStream(w, r, func(ctx context.Context, req *wire.ConnectRequest, s *wire.ResponseStream) error {
				g.mu.Lock()
				main := g.main
				g.mu.Unlock()
				if main == nil || req.Process.Tag != "main" {
					return wire.Errorf(wire.NotFound, "process not found")
				}
				_ = send(s, wire.ProcessEvent{Start: &wire.StartEvent{PID: 1}})
				return g.follow(ctx, s, main)
			})
		case "/metrics":
			_, _ = io.WriteString(w, `{"cpu_used_pct":12.5,"mem_used":1000,"disk_used":2000}`)
		default:
			http.NotFound(w, r)
		}
	})
}

func (g *fakeGuest) follow(ctx context.Context, s *wire.ResponseStream, main chan int) error {
	select {
	case code := <-main:
		g.mu.Lock()
		g.main = nil
		g.mu.Unlock()
		return end(s, code)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func send(s *wire.ResponseStream, e wire.ProcessEvent) error {
	return s.Send(wire.EventResponse{Event: e})
}

func end(s *wire.ResponseStream, code int) error {
	return send(s, wire.ProcessEvent{End: &wire.EndEvent{Exited: true, ExitCode: int32(code), Status: "exit status"}})
}

// exit ends the main command.
func (g *fakeGuest) exit(code int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.main <- code
}

func (g *fakeGuest) started() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.starts
}

var service = dayfly.Spec{Image: "base", Command: []string{"serve", "-v"}}

// withGuest runs a test in a bubble, with a fake guest in every workspace.
func withGuest(t *testing.T, f func(*testing.T, *world, *fakeGuest)) {
	t.Helper()
	rules(t, func(t *testing.T, w *world) {
		g := &fakeGuest{check: func() (int, string) { return 0, "" }}
		w.node.guest = g.handler
		f(t, w, g)
	})
}

func (w *world) log(id dayfly.ID) string {
	w.t.Helper()
	r, err := w.Log(context.Background(), id, dayfly.LogQuery{Source: dayfly.CommandLog})
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

func TestEndOfTheMainCommandIsRecorded(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		ws := w.create(service)
		after(time.Second)
		if g.started() != 1 || g.config.Cmd != "serve" || !slices.Equal(g.config.Args, []string{"-v"}) {
			t.Fatalf("%d starts of %+v", g.started(), g.config)
		}
		g.exit(3)
		after(time.Second)
		got := w.get(ws.ID)
		if got.State != dayfly.Running || got.Exit == nil || got.Exit.Code != 3 || w.stored(ws.ID).Exit == nil {
			t.Fatalf("%+v", got)
		}
		after(5 * time.Minute)
		if g.started() != 1 || count(w.events(ws.ID), dayfly.WorkspaceExited) != 1 || w.log(ws.ID) != "began\n" {
			t.Fatalf("%d starts, %v, log %q", g.started(), w.events(ws.ID), w.log(ws.ID))
		}
	})
}

func TestWorkspaceIsRemovedOnExit(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		spec := service
		spec.RemoveOnExit = true
		ws := w.create(spec)
		after(time.Second)
		g.exit(0)
		after(time.Second)
		w.is(ws.ID, dayfly.Deleted)
		w.nothing()
	})
}

func TestMainCommandIsRestartedWithBackoff(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		spec := service
		spec.Restart = dayfly.Restart{Policy: dayfly.RestartOnFailure, Max: 3}
		ws := w.create(spec)
		after(time.Second)
		for n, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			g.exit(1)
			after(pause - 500*time.Millisecond)
			if g.started() != n+1 {
				t.Fatalf("%d starts before the pause is over", g.started())
			}
			after(time.Second)
			if g.started() != n+2 || w.get(ws.ID).Restarts != n+1 || w.get(ws.ID).Exit != nil {
				t.Fatalf("%d starts after it: %+v", g.started(), w.get(ws.ID))
			}
		}
		g.exit(1)
		after(5 * time.Minute)
		if g.started() != 4 {
			t.Fatalf("%d starts", g.started())
		}
	})
}

// TestPauseBeforeARestartIsKept over another server, and over a pause of the
// workspace: it counts from the end of the command.
func TestPauseBeforeARestartIsKept(t *testing.T) {
	for name, meanwhile := range map[string]func(*testing.T, *world, dayfly.ID){
		"another server": func(_ *testing.T, w *world, _ dayfly.ID) { w.reopen() },
		"a pause": func(t *testing.T, w *world, id dayfly.ID) {
			if _, err := w.Pause(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Resume(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
				spec := service
				spec.Restart = dayfly.Restart{Policy: dayfly.RestartOnFailure, Max: 3}
				ws := w.create(spec)
				after(time.Second)
				for _, pause := range []time.Duration{time.Second, 2 * time.Second} {
					g.exit(1)
					after(pause + time.Second)
				}
				g.exit(1) // four seconds until the third
				after(time.Second)
				meanwhile(t, w, ws.ID)
				after(2500 * time.Millisecond)
				if g.started() != 3 {
					t.Fatalf("%d starts before the pause is over", g.started())
				}
				after(time.Second)
				if got := w.get(ws.ID); g.started() != 4 || got.Restarts != 3 || got.Exit != nil {
					t.Fatalf("%d starts after it: %+v", g.started(), got)
				}
				g.exit(1)
				after(time.Second)
				meanwhile(t, w, ws.ID)
				after(2 * resetsAfter)
				if got := w.get(ws.ID); g.started() != 4 || got.Exit == nil || got.Restarts != 3 {
					t.Fatalf("after the last: %d starts, %+v", g.started(), got)
				}
			})
		})
	}
}

// resetsAfter is how long a machine has to run until its restarts are forgiven.
const resetsAfter = 10 * time.Minute

// TestRestartThatBecameDueWhileTheServerWasAwayIsMade at once.
func TestRestartThatBecameDueWhileTheServerWasAwayIsMade(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		spec := service
		spec.Restart = dayfly.Restart{Policy: dayfly.RestartAlways}
		ws := w.create(spec)
		after(time.Second)
		g.exit(0)
		after(500 * time.Millisecond)
		w.close()
		after(time.Hour)
		if g.started() != 1 {
			t.Fatalf("%d starts without a server", g.started())
		}
		w.open()
		after(time.Second)
		if got := w.get(ws.ID); g.started() != 2 || got.Restarts != 1 {
			t.Fatalf("%d starts, %+v", g.started(), got)
		}
	})
}

// TestRemovalOnExitIsFinishedByTheNextServer: the one before was killed between
// the record of the end and the removal.
func TestRemovalOnExitIsFinishedByTheNextServer(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, _ *fakeGuest) {
		spec := service
		spec.RemoveOnExit = true
		ws := w.create(spec)
		after(time.Second)
		w.close()
		r := w.stored(ws.ID)
		r.Exit = &dayfly.Exit{At: time.Now()}
		if _, err := w.db.Update(t.Context(), store.Change{Record: r}); err != nil {
			t.Fatal(err)
		}
		w.open()
		after(time.Second)
		w.is(ws.ID, dayfly.Deleted)
		w.nothing()
	})
}

func TestMainCommandGoesOnThroughPausesAndServers(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		ws := w.create(service)
		after(time.Second)
		if _, err := w.Pause(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Resume(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		w.reopen()
		after(5 * time.Second)
		if g.started() != 1 || !strings.Contains(w.log(ws.ID), "may be missing") {
			t.Fatalf("%d starts, log %q", g.started(), w.log(ws.ID))
		}
		g.exit(7)
		after(5 * time.Second)
		if got := w.get(ws.ID); got.Exit == nil || got.Exit.Code != 7 {
			t.Fatalf("%+v", got)
		}
		w.reopen()
		after(5 * time.Second)
		if g.started() != 1 || count(w.events(ws.ID), dayfly.WorkspaceExited) != 1 {
			t.Fatalf("one that had ended: %d starts, %v", g.started(), w.events(ws.ID))
		}
		if _, err := w.Restart(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		if got := w.get(ws.ID); g.started() != 2 || got.Exit != nil {
			t.Fatalf("after a restart: %d starts, %+v", g.started(), got)
		}
	})
}

func TestMainCommandThatEndedUnseenIsSaidToHaveEnded(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		ws := w.create(service)
		after(time.Second)
		w.close()
		g.mu.Lock()
		g.main = nil
		g.mu.Unlock()
		w.open()
		after(5 * time.Second)
		if got := w.get(ws.ID); g.started() != 1 || got.Exit == nil || got.Exit.Code != -1 {
			t.Fatalf("%d starts, %+v", g.started(), got)
		}
	})
}

func TestForkFindsItsMainCommandAgain(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		ws := w.create(service)
		after(time.Second)
		kids, err := w.Fork(t.Context(), ws.ID, 1)
		if err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		if g.started() != 1 || w.get(kids[0].ID).Exit != nil {
			t.Fatalf("%d starts, %+v", g.started(), w.get(kids[0].ID))
		}
	})
}

func TestCreationWaitsUntilTheCheckSucceeds(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		tries := 0
		g.check = func() (int, string) {
			if tries++; tries < 5 {
				return 1, "not yet\n"
			}
			return 0, ""
		}
		began := time.Now()
		ws := w.create(dayfly.Spec{Image: "base", Ready: dayfly.ReadyCheck{Command: []string{"true"}}})
		if took := time.Since(began); !ws.Ready || tries != 5 || took < 4*time.Second || took > 5*time.Second {
			t.Fatalf("%d tries, %s, %+v", tries, took, ws)
		}
	})
}

func TestCheckThatNeverSucceedsIsAFailedStart(t *testing.T) {
	withGuest(t, func(t *testing.T, w *world, g *fakeGuest) {
		g.check = func() (int, string) { return 4, "no\x1b port" }
		spec := dayfly.Spec{Image: "base", Ready: dayfly.ReadyCheck{Command: []string{"true"}, Timeout: 10}}
		_, err := w.Create(t.Context(), spec, dayfly.CreateOptions{})
		wantKind(t, err, dayfly.Unavailable)
		for _, part := range []string{"ready: ", "exit code 4", `no\x1b port`, "10 s"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in %v", part, err)
			}
		}
		w.nothing()
		ws, err := w.Create(t.Context(), spec, dayfly.CreateOptions{Wait: dayfly.WaitCreated})
		if err != nil {
			t.Fatal(err)
		}
		after(12 * time.Second)
		if got := w.get(ws.ID); got.State != dayfly.Failed || !strings.HasPrefix(got.Reason, "ready: ") || w.stored(ws.ID).State != dayfly.Failed {
			t.Fatalf("%+v", got)
		}
		w.reopen()
		w.is(ws.ID, dayfly.Failed)
	})
}

func TestMetricsAreTheHostsAndTheGuests(t *testing.T) {
	t.Parallel()
	began := time.Now().Add(-time.Minute)
	w := newWorld(t, func(o *control.Options) {
		o.HostUse = func(context.Context, dayfly.ID) (control.Use, error) {
			return control.Use{CPU: 2 * time.Second, Memory: 3, Disk: 4, Since: began}, nil
		}
	})
	w.node.guest = (&fakeGuest{}).handler
	ws := w.create(base)
	m, err := w.Metrics(t.Context(), ws.ID)
	if err != nil || m.CPUSeconds != 2 || m.HostMemory != 3 || m.HostDisk != 4 || m.CPUPercent != 12.5 || m.MemoryUsed != 1000 || m.DiskUsed != 2000 || m.UptimeS < 60 {
		t.Fatalf("%+v, %v", m, err)
	}
}

// TestLogOfARealCommand runs one by a real agent in this process.
// TestBootLogOfAMachineThatBootedForAnotherSaysSo, and that of one that has booted
// shows what its kernel said.
func TestBootLogOfAMachineThatBootedForAnotherSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ws := w.create(base)
	kids, err := w.Fork(t.Context(), ws.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	boot := func(id dayfly.ID) string {
		r, err := w.Log(t.Context(), id, dayfly.LogQuery{Source: dayfly.BootLog, Tail: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := boot(kids[0].ID); got != "line 3\n" {
		t.Errorf("a console that is there: %q", got)
	}
	w.node.silent = true
	if got := boot(kids[0].ID); !strings.HasPrefix(got, "[dayfly] there is no boot log: ") || !strings.Contains(got, "forked") {
		t.Errorf("of a copy: %q", got)
	}
	if got := boot(ws.ID); got != "" {
		t.Errorf("of one that has booted: %q", got)
	}
	if _, err := w.Pause(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Resume(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	if got := boot(ws.ID); !strings.Contains(got, "a pause") {
		t.Errorf("of one that was resumed: %q", got)
	}
}

func TestLogOfARealCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := agent.New(agent.Config{})
	defer a.Close()
	w.node.guest = func(dayfly.ID) http.Handler { return a.Handler() }
	const script = `i=0; while [ $i -lt 2000 ]; do echo "line $i of many, to fill a log that keeps the newest and forgets what came before"; i=$((i+1)); done; yes "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" | head -c 3000000; echo last; exit 5`
	ws := w.create(dayfly.Spec{Image: "base", Command: []string{"/bin/sh", "-c", script}})
	r, err := w.Log(t.Context(), ws.ID, dayfly.LogQuery{Source: dayfly.CommandLog, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var followed strings.Builder
	buf := make([]byte, 64<<10)
	for !strings.Contains(followed.String(), "last\n") {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		followed.Write(buf[:n])
	}
	r.Close()
	for w.get(ws.ID).Exit == nil {
		<-time.After(5 * time.Millisecond)
	}
	if exit := w.get(ws.ID).Exit; exit.Code != 5 {
		t.Errorf("%+v", exit)
	}
	all := w.log(ws.ID)
	if len(all) > 1<<20 || len(all) < 1<<19 || !strings.HasSuffix(all, "last\n") || strings.Contains(all, "line 0 ") {
		t.Errorf("%d bytes are kept, ending in %q", len(all), all[max(0, len(all)-20):])
	}
	tail, err := w.Log(t.Context(), ws.ID, dayfly.LogQuery{Source: dayfly.BootLog, Tail: 2})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(tail); err != nil || string(b) != "line 2\nline 3\n" {
		t.Errorf("%q, %v", b, err)
	}
	followed.Reset()
	if r, err = w.Log(t.Context(), ws.ID, dayfly.LogQuery{Source: dayfly.CommandLog, Tail: 1, Follow: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(&followed, r); err != nil || followed.String() != "last\n" {
		t.Errorf("a log whose workspace is gone: %q, %v", followed.String(), err)
	}
}
