package control_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
)

func TestCreatedWorkspaceIsReadyAndRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ws := w.create(dayfly.Spec{Image: "base", Name: "one", Metadata: map[string]string{"a": "b"}, Timeout: 100})
	if ws.State != dayfly.Running || !ws.Ready || ws.StartKind != dayfly.Cold || ws.ExpiresAt == nil || ws.Namespace != "default" {
		t.Fatalf("%+v", ws)
	}
	r := w.stored(ws.ID)
	if r.State != dayfly.Running || !r.Ready || !r.Durable || r.Spec.Metadata["a"] != "b" {
		t.Fatalf("stored: %+v", r)
	}
	if in, err := w.node.Get(t.Context(), ws.ID); err != nil || in.Spec.Timeout != 0 || in.Spec.Metadata != nil {
		t.Fatalf("the node has a timer or metadata: %+v, %v", in, err)
	}
	want := []dayfly.EventType{dayfly.WorkspaceCreated, dayfly.WorkspaceRunning, dayfly.WorkspaceReady}
	if got := w.events(ws.ID); !slices.Equal(got, want) {
		t.Fatalf("events %v", got)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broken := &dayfly.Error{Kind: dayfly.Unavailable, Stage: "vmm", Msg: "no VMM"}
	w.node.fails = func(string, dayfly.Workspace) error { return broken }
	for _, once := range []string{"", "key"} {
		_, err := w.Create(t.Context(), base, dayfly.CreateOptions{Once: once})
		var e *dayfly.Error
		if !errors.As(err, &e) || e.Stage != "vmm" {
			t.Fatalf("error %v", err)
		}
		w.nothing()
	}
	w.node.fails = nil
	if _, err := w.Create(t.Context(), base, dayfly.CreateOptions{Once: "key"}); err != nil {
		t.Fatalf("the key of a request that was taken back: %v", err)
	}
}

// nothing fails unless there is no workspace anywhere.
func (w *world) nothing() {
	w.t.Helper()
	q, err := w.db.Quota(context.Background(), "default")
	if err != nil || q.Used != (dayfly.Amounts{}) {
		w.t.Fatalf("quota: %+v, %v", q.Used, err)
	}
	if ids := w.node.ids(); len(ids) != 0 {
		w.t.Fatalf("the node has %v", ids)
	}
	for s, n := range w.Stats().Workspaces {
		if n != 0 {
			w.t.Fatalf("%d are %s", n, s)
		}
	}
}

func TestCallerWhoLeavesLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node.hold = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-w.node.begun
		cancel()
	}()
	_, err := w.Create(ctx, base, dayfly.CreateOptions{Once: "key"})
	wantKind(t, err, dayfly.Unavailable)
	w.nothing()
}

func TestRepeatedRequestGetsTheSameWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	once := dayfly.CreateOptions{Once: "key"}
	first, err := w.Create(t.Context(), base, once)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.Create(t.Context(), base, once)
	if err != nil || again.ID != first.ID || !again.Ready {
		t.Fatalf("%+v, %v", again, err)
	}
	_, err = w.Create(t.Context(), dayfly.Spec{Image: "base", CPUs: 2}, once)
	wantKind(t, err, dayfly.Conflict)
	if err := w.Delete(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	_, err = w.Create(t.Context(), base, once)
	wantKind(t, err, dayfly.Conflict)
	if n := len(w.node.ids()); n != 0 {
		t.Fatalf("the node has %d", n)
	}
}

func TestRepeatedRequestWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *control.Options) { o.Starts = 4 })
	hold := make(chan struct{})
	w.node.hold = hold
	var wg sync.WaitGroup
	ids := make([]dayfly.ID, 3)
	for i := range ids {
		wg.Go(func() {
			ws, err := w.Create(t.Context(), base, dayfly.CreateOptions{Once: "key"})
			if err != nil {
				t.Error(err)
			}
			ids[i] = ws.ID
		})
	}
	<-w.node.begun
	close(hold)
	wg.Wait()
	if ids[0] != ids[1] || ids[1] != ids[2] || len(w.node.ids()) != 1 {
		t.Fatalf("%v", ids)
	}
}

func TestWaitCreatedReturnsEarlyAndFailureIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hold := make(chan struct{})
	w.node.hold = hold
	w.node.fails = func(string, dayfly.Workspace) error {
		return &dayfly.Error{Kind: dayfly.Unavailable, Stage: "boot", Msg: "no hello"}
	}
	ws, err := w.Create(t.Context(), base, dayfly.CreateOptions{Wait: dayfly.WaitCreated})
	if err != nil || ws.State != dayfly.Creating || !w.stored(ws.ID).Durable {
		t.Fatalf("%+v, %v", ws, err)
	}
	_, err = w.Stop(t.Context(), ws.ID)
	wantKind(t, err, dayfly.Conflict)
	if !strings.Contains(err.Error(), "creating") {
		t.Fatalf("the state is not named: %v", err)
	}
	close(hold)
	ws = w.until(ws.ID, dayfly.Failed)
	if !strings.Contains(ws.Reason, "boot") || !strings.Contains(ws.Reason, "no hello") {
		t.Fatalf("reason %q", ws.Reason)
	}
	w.node.fails = nil
	if ws, err = w.Start(t.Context(), ws.ID); err != nil || ws.State != dayfly.Running {
		t.Fatalf("a second start: %+v, %v", ws, err)
	}
	want := []dayfly.EventType{dayfly.WorkspaceCreated, dayfly.WorkspaceFailed, dayfly.WorkspaceRunning, dayfly.WorkspaceReady}
	if got := w.events(ws.ID); !slices.Equal(got, want) {
		t.Fatalf("events %v", got)
	}
}

func TestDeleteCancelsCreation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node.hold = make(chan struct{})
	ws, err := w.Create(t.Context(), base, dayfly.CreateOptions{Wait: dayfly.WaitCreated})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	w.nothing()
	_, err = w.Get(t.Context(), ws.ID)
	wantKind(t, err, dayfly.NotFound)
}

func TestFiftyCreatesKeepTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *control.Options) { o.Starts = 8 })
	w.namespace("team", dayfly.Limits{Running: 7, MemoryMiB: 7 * 512})
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 50 {
		wg.Go(func() {
			_, err := w.Create(in("team"), base, dayfly.CreateOptions{})
			mu.Lock()
			defer mu.Unlock()
			switch dayfly.KindOf(err) {
			case "":
				made++
			case dayfly.Exhausted:
				if !strings.Contains(err.Error(), "/7") {
					t.Errorf("the limit is not named: %v", err)
				}
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	q, err := w.Quota(in("team"), "team")
	if err != nil || made != 7 || q.Used.Running != 7 || len(w.node.ids()) != 7 {
		t.Fatalf("%d made, %+v, %d at the node, %v", made, q.Used, len(w.node.ids()), err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *control.Options) { o.Starts, o.Queue = 2, 3 })
	hold := make(chan struct{})
	w.node.hold = hold
	results := make(chan error, 5)
	for range 5 {
		go func() {
			_, err := w.Create(context.Background(), base, dayfly.CreateOptions{})
			results <- err
		}()
	}
	for s := w.Stats(); s.Waiting < 3; s = w.Stats() {
	}
	_, err := w.Create(t.Context(), base, dayfly.CreateOptions{})
	var e *dayfly.Error
	if !errors.As(err, &e) || e.Kind != dayfly.Exhausted || e.RetryAfter <= 0 || !strings.Contains(e.Msg, "3 starts are waiting") {
		t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	close(hold)
	for range 5 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if w.node.most > 2 {
		t.Errorf("%d starts at once", w.node.most)
	}
	_, err = w.Create(ctx, base, dayfly.CreateOptions{})
	wantKind(t, err, dayfly.Unavailable)
	for s := w.Stats(); s.Starting > 0; s = w.Stats() { // a place is free a moment after its start was answered
	}
	if s := w.Stats(); s.Starting != 0 || s.Waiting != 0 || s.Refused != 1 || s.Workspaces[dayfly.Running] != 5 {
		t.Errorf("%+v", s)
	}
}

func TestSpecSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for want, s := range map[string]dayfly.Spec{
		"image":          {},
		"on_timeout":     {OnTimeout: "explode"},
		"idle":           {Idle: dayfly.Idle{PauseAfter: 10, StopAfter: 5}},
		"pause_after_s":  {Idle: dayfly.Idle{PauseAfter: -1}},
		"restart":        {Restart: dayfly.Restart{Policy: "sometimes"}},
		"remove_on_exit": {RemoveOnExit: true},
		"exclude":        {RemoveOnExit: true, ImageCommand: true, Restart: dayfly.Restart{Policy: dayfly.RestartAlways}},
		"command":        {Command: []string{""}},
		"metadata":       {Metadata: map[string]string{"": "x"}},
		"snapshot":       {Snapshot: "nothing"},
	} {
		if want != "image" && s.Snapshot == "" {
			s.Image = "base"
		}
		_, err := w.Create(t.Context(), s, dayfly.CreateOptions{})
		if k := dayfly.KindOf(err); k != dayfly.Invalid && k != dayfly.NotFound || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	w.nothing()
}
