package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/boot"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

// world is a node's surroundings: everything but the machine and the images is
// real, and each part can be made to fail.
type world struct {
	dir    string
	boom   string // the row that fails
	init   func(wire.Init) (wire.InitReply, int)
	silent bool // the agent never says hello
	driver *fake.Driver
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	w.init = func(wire.Init) (wire.InitReply, int) { return wire.InitReply{Kernel: "6.0-fake"}, http.StatusOK }
	w.driver = fake.New(w.guest, func(vmm.Config) error { return w.fails("vmm") })
	if err := os.WriteFile(filepath.Join(w.dir, "rootfs"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) fails(row string) error {
	if w.boom == row {
		return errBoom
	}
	return nil
}

// guest is an agent in a fake machine.
func (w *world) guest(ctx context.Context, in fake.Inside) error {
	if w.silent {
		<-ctx.Done()
		return nil
	}
	if w.boom == "boot" {
		return errBoom
	}
	off := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.InitPath, func(rw http.ResponseWriter, r *http.Request) {
		var msg wire.Init
		_ = json.NewDecoder(r.Body).Decode(&msg)
		reply, status := w.init(msg)
		if w.boom == "init" {
			status = http.StatusInternalServerError
		}
		rw.WriteHeader(status)
		_ = json.NewEncoder(rw).Encode(reply)
	})
	mux.HandleFunc("POST "+wire.PoweroffPath, func(http.ResponseWriter, *http.Request) { off <- struct{}{} })
	sessions := boot.NewSessions(mux)
	defer sessions.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := in.Port.Accept()
			if err != nil {
				return
			}
			_ = sessions.Serve(conn, wire.Hello{Dayfly: wire.ProtocolVersion})
		}
	}()
	select {
	case <-off:
		return nil
	case <-ctx.Done():
		<-served
		return nil
	}
}

func (w *world) Lease(_ context.Context, name string) (*image.Lease, error) {
	if name == "missing" {
		return nil, dayfly.Errorf(dayfly.NotFound, "there is no image missing")
	}
	return &image.Lease{Image: dayfly.Image{Name: name, Digest: "sha256:0"}, Path: filepath.Join(w.dir, "rootfs")}, w.fails("image")
}

func (w *world) Boot(context.Context, string) (kernel.Boot, error) {
	return kernel.Boot{Kernel: dayfly.Kernel{ID: "k"}, Vmlinux: filepath.Join(w.dir, "rootfs"), Initramfs: filepath.Join(w.dir, "rootfs")}, w.fails("kernel")
}

// keys is a ring whose Create can fail.
type keys struct {
	*keyring.Ring
	w *world
}

func (k keys) Create(ctx context.Context, path, name string) (*keyring.Key, error) {
	if err := k.w.fails("disk"); err != nil {
		return nil, err
	}
	return k.Ring.Create(ctx, path, name)
}

func (w *world) open(t *testing.T) *Node {
	t.Helper()
	ring, err := keyring.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(t.Context(), Config{Dir: w.dir, Images: w, Kernels: w, Keys: keys{ring, w}, Driver: w.driver, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// node is open with a Close at the end that must leave nothing.
func (w *world) node(t *testing.T) *Node {
	t.Helper()
	n := w.open(t)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return n
}

var spec = dayfly.Spec{Image: "base", DiskMiB: 64, Accel: dayfly.TCG, Env: map[string]string{"A": "b"}}

// left lists what is below the directories of workspaces and locks.
func (w *world) left(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, sub := range []string{"workspaces", "locks"} {
		ents, err := os.ReadDir(filepath.Join(w.dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ents {
			all = append(all, sub+"/"+e.Name())
		}
	}
	return all
}

func TestStartRunsEveryRowAndTimesIt(t *testing.T) {
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
	want := []string{"/home", "/image", "/kernel", "/disk", "/vmm", "/boot", "/init", "init/crypt[31m"}
	if !slices.Equal(names, want) {
		t.Errorf("stages are %q, want %q", names, want)
	}
	if ws.State != dayfly.Running || ws.StartKind != dayfly.Cold || ws.Accel != dayfly.TCG || ws.Kernel != "k" {
		t.Errorf("workspace is %+v", ws)
	}
	if got.ID != string(ws.ID) || got.EnvVars["A"] != "b" || len(got.Entropy) != entropyLen || len(got.Root.DiskKey) != 64 || got.Timestamp == "" {
		t.Errorf("init was %+v", got)
	}
}

func TestStartLeavesNothingBehind(t *testing.T) {
	for _, row := range startup {
		if row.name == "home" {
			continue // its failure is TestStartWithoutAHome
		}
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node(t)
			w.boom = row.name
			_, err := n.Create(t.Context(), spec)
			var e *dayfly.Error
			if !errors.As(err, &e) || e.Stage != row.name {
				t.Fatalf("Create = %v, want an error of stage %s", err, row.name)
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if list, err := n.List(t.Context()); err != nil || len(list) > 0 {
				t.Errorf("List = %v, %v", list, err)
			}
		})
	}
}

func TestCancelledStartLeavesNothingBehind(t *testing.T) {
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
	w := newWorld(t)
	w.boom = "boot"
	_, err := w.node(t).Create(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "panicked") || !strings.Contains(err.Error(), "Kernel panic - not syncing: boom") {
		t.Fatalf("Create = %v", err)
	}
}

func TestSilentAgentIsReportedAtItsDeadline(t *testing.T) {
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
	w := newWorld(t)
	n := w.node(t)
	ws, err := n.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	own := n.own[ws.ID]
	n.mu.Unlock()
	if err := fake.Crash(own.parts.machine); err != nil {
		t.Fatal(err)
	}
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
	if err := writeRecord(workspaceDir(w.dir, kept.ID), kept); err != nil {
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
	if err := writeRecord(home, dayfly.Workspace{ID: dead, State: dayfly.Running}); err != nil {
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
	for name, say := range map[string]func(net.Conn){
		"garbage":        func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("garbage\n", 1<<20)) },
		"no line end":    func(c net.Conn) { _, _ = io.WriteString(c, strings.Repeat("x", 4<<20)) },
		"wrong version":  func(c net.Conn) { _, _ = io.WriteString(c, `{"dayfly":99}`+"\n") },
		"hello and junk": func(c net.Conn) { _, _ = io.WriteString(c, `{"dayfly":1}`+"\n"+strings.Repeat("\xff", 1<<16)) },
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

// TestStartupIsDocumented: every row has a line in the table of docs/startup.md,
// in the same order.
func TestStartupIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/startup.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, rows []string
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			documented = append(documented, name)
		}
	}
	for _, r := range startup {
		rows = append(rows, r.name)
	}
	if !slices.Equal(documented, rows) {
		t.Errorf("docs/startup.md has %q, the table %q", documented, rows)
	}
}

// TestOldRecordsLoad: a workspace kept by an earlier release is still one.
func TestOldRecordsLoad(t *testing.T) {
	samples, err := filepath.Glob("testdata/record/v*.json")
	if err != nil || len(samples) == 0 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	for _, path := range samples {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		ws, err := parseRecord(b)
		if err != nil || ws.ID != "wabcdefghijklmnopqrst" || ws.State != dayfly.Stopped || ws.Image.Digest == "" || !ws.Spec.Keep {
			t.Errorf("%s: %+v, %v", path, ws, err)
		}
	}
}
