package node

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/vmm/fake"
)

func TestStartRunsEveryRowAndTimesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var got wire.Init
	w.init = func(in wire.Init) (wire.InitReply, int) {
		got = in
		return wire.InitReply{Timeline: dayfly.Timeline{{Name: "crypt\x1b[31m", At: 1, Took: 2}}}, http.StatusOK
	}
	ws, err := w.node(t).Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range ws.Timeline {
		names = append(names, s.Within+"/"+s.Name)
	}
	want := []string{"/home", "/image", "/kernel", "/template", "/disk", "/vmm", "/boot", "/init", "init/crypt[31m", "/limits"}
	if !slices.Equal(names, want) {
		t.Errorf("stages are %q, want %q", names, want)
	}
	if ws.State != dayfly.Running || ws.StartKind != dayfly.Restore || ws.Accel != dayfly.TCG || ws.Kernel != "k" {
		t.Errorf("workspace is %+v", ws)
	}
	if got.ID != string(ws.ID) || got.EnvVars["A"] != "b" || len(got.Entropy) != entropyLen || len(got.Root.DiskKey) != 64 || got.Timestamp == "" {
		t.Errorf("init was %+v", got)
	}
}

func TestCancelledStartLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.silent = true
	n := w.node(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for list := []dayfly.Workspace(nil); len(list) == 0; list, _ = n.List(ctx) {
		}
		cancel()
	}()
	_, err := n.Create(ctx, spec)
	if err == nil {
		t.Fatal("it started")
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDeleteInterruptsAStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.silent = true
	n := w.node(t)
	failed := make(chan error, 1)
	go func() {
		_, err := n.Create(t.Context(), spec)
		failed <- err
	}()
	var list []dayfly.Workspace
	for len(list) == 0 {
		list, _ = n.List(t.Context())
	}
	if err := n.Delete(t.Context(), list[0].ID); err != nil && dayfly.KindOf(err) != dayfly.NotFound {
		t.Fatal(err)
	}
	if err := <-failed; dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Create = %v, want a Conflict", err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestUnknownImageKeepsItsKindAndGetsAStage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spec
	s.Image = "missing"
	_, err := w.node(t).Create(t.Context(), s)
	var e *dayfly.Error
	if !errors.As(err, &e) || e.Kind != dayfly.NotFound || e.Stage != "image" {
		t.Fatalf("Create = %v", err)
	}
}

func TestPanicIsReportedWithTheConsole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.breaks("boot", -1)
	_, err := w.node(t).Create(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "panicked") || !strings.Contains(err.Error(), "Kernel panic - not syncing: boom") {
		t.Fatalf("Create = %v", err)
	}
}

func TestSilentAgentIsReportedAtItsDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.driver = fake.New(func(ctx context.Context, in fake.Inside) error {
		_, _ = io.WriteString(in.Console, "last words\x1b[2J of the guest\n")
		<-ctx.Done()
		return nil
	}, nil)
	n := w.node(t)
	n.BootDeadline = time.Millisecond
	_, err := n.Create(t.Context(), spec)
	var e *dayfly.Error
	if !errors.As(err, &e) || e.Stage != "boot" || !strings.Contains(e.Msg, "no word") || !strings.Contains(e.Msg, "last words[2J of the guest") {
		t.Fatalf("Create = %v", err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestMachineThatDiesFailsItsWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(t)
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	w.crash(t)
	for ws.State == dayfly.Running {
		if ws, err = n.Get(t.Context(), ws.ID); err != nil {
			t.Fatal(err)
		}
	}
	if ws.State != dayfly.Failed || !strings.Contains(ws.Reason, "VMM process ended") {
		t.Errorf("workspace is %s: %s", ws.State, ws.Reason)
	}
	if _, err := n.Dial(t.Context(), ws.ID, wire.AgentPort); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Dial = %v, want a Conflict", err)
	}
	// Its disk is there, so it starts again.
	if ws, err = n.Start(t.Context(), ws.ID); err != nil || ws.State != dayfly.Running || ws.Reason != "" {
		t.Errorf("Start = %+v, %v", ws, err)
	}
}

func TestStoppedWorkspaceOutlivesItsServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.open(t)
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if ws, err = n.Stop(t.Context(), ws.ID); err != nil || ws.State != dayfly.Stopped {
		t.Fatalf("Stop = %+v, %v", ws, err)
	}
	if _, err := n.Stop(t.Context(), ws.ID); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = w.open(t)
	if ws, err = n.Start(t.Context(), ws.ID); err != nil || ws.State != dayfly.Running {
		t.Fatalf("Start = %+v, %v", ws, err)
	}
	if err := n.Close(); err != nil { // stops it, as it is to be kept
		t.Fatal(err)
	}
	n = w.node(t)
	if ws, err = n.Get(t.Context(), ws.ID); err != nil || ws.State != dayfly.Stopped {
		t.Fatalf("Get = %+v, %v", ws, err)
	}
	if err := n.Delete(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	if err := n.Delete(t.Context(), ws.ID); dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("a second Delete: %v", err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestSweepTakesWhatTheDeadLeftAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alive := w.node(t)
	mine, err := alive.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	dead := dayfly.NewID()
	home := workspaceDir(w.dir, dead)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{keyFile, diskFile, recordFile, "agent.sock"} {
		if err := os.WriteFile(filepath.Join(home, f), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept := dayfly.Workspace{ID: dayfly.NewID(), State: dayfly.Running, Spec: dayfly.Spec{Keep: true}}
	if err := os.Mkdir(workspaceDir(w.dir, kept.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (record{Workspace: kept}).write(workspaceDir(w.dir, kept.ID)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "locks", string(dayfly.NewID())), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The dead one's record is of no version known: another release's, so kept.
	w.node(t)
	if _, err := os.Stat(home); err != nil {
		t.Fatalf("a record of another release was swept: %v", err)
	}
	if err := (record{Workspace: dayfly.Workspace{ID: dead, State: dayfly.Running}}).write(home); err != nil {
		t.Fatal(err)
	}
	other := w.node(t)
	list, err := other.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("List = %+v, %v", list, err)
	}
	for _, ws := range list {
		switch {
		case ws.ID == mine.ID && ws.State == dayfly.Running:
		case ws.ID == kept.ID && ws.State == dayfly.Failed:
		default:
			t.Errorf("found %s %s", ws.ID, ws.State)
		}
	}
	if _, err := other.Stop(t.Context(), mine.ID); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Stop of another process's workspace = %v", err)
	}
	if _, err := os.Stat(home); err == nil {
		t.Error("the dead owner's workspace is still there")
	}
	if err := other.Delete(t.Context(), kept.ID); err != nil {
		t.Error(err)
	}
}

func TestHostileAgentIsAnErrorNotAHang(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]func(net.Conn){
		"garbage":       func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("garbage\n", 1<<20)) },
		"no line end":   func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("x", 4<<20)) },
		"wrong version": func(c net.Conn) { _, _ = io.WriteString(c, `{"dayfly":99}`+"\n") },
		"hello and junk": func(c net.Conn) {
			for in := bufio.NewReader(c); ; {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if nonce, ok := wire.CutWord(line, wire.Hail); ok {
					_, _ = io.WriteString(c, `{"dayfly":2,"nonce":"`+nonce+"\"}\n"+wire.Ready+nonce+"\n"+strings.Repeat("\xff", 1<<16))
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.driver = fake.New(func(ctx context.Context, in fake.Inside) error {
				c, err := in.Port.Accept()
				if err != nil {
					return nil
				}
				say(c)
				<-ctx.Done()
				return nil
			}, nil)
			if _, err := w.node(t).Create(t.Context(), spec); err == nil {
				t.Fatal("it started")
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"workspace":{"id":"wabc","state":"running"}}`))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseRecord(b) })
}

// TestStepsAreDocumented: every row of every table has a line in docs/startup.md,
// in the same order.
func TestStepsAreDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/startup.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented string
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			documented += name + "\n"
		}
	}
	for table, rows := range tables() {
		if !strings.Contains("\n"+documented, "\n"+strings.Join(rows, "\n")+"\n") {
			t.Errorf("docs/startup.md has %q, but not %s, which is %q", strings.Fields(documented), table, rows)
		}
	}
}

// TestOldRecordsLoad: a workspace kept by an earlier release is still one.
func TestOldRecordsLoad(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob("testdata/record/v*.json")
	if err != nil || len(samples) == 0 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	for _, path := range samples {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseRecord(b)
		ws := r.Workspace
		if err != nil || ws.ID != "wabcdefghijklmnopqrst" || ws.State != dayfly.Stopped || ws.Image.Digest == "" || !ws.Spec.Keep {
			t.Errorf("%s: %+v, %v", path, ws, err)
		}
	}
}
