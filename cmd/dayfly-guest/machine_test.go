package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/test/needs"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// deadline bounds every wait for a guest; far beyond what an emulated one takes
// on a busy host.
const deadline = 30 * time.Second

// parts are what all machines of these tests boot from, made once.
type parts struct {
	once sync.Once
	dir  string
	boot kernel.Boot
	err  error
}

var shared parts

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// prepare builds the agent and packs it for the kernel of the prepared state,
// which is copied: this agent is not to be packed there.
func (p *parts) prepare(t testing.TB) kernel.Boot {
	t.Helper()
	state := needs.State(t)
	p.once.Do(func() {
		p.err = func() (err error) {
			if p.dir, err = os.MkdirTemp("", "dayfly-guest-test-*"); err != nil {
				return err
			}
			agent := filepath.Join(p.dir, "agent")
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, ".")
			cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("build the agent: %w\n%s", err, out)
			}
			binary, err := os.ReadFile(agent)
			if err != nil {
				return err
			}
			kernels := filepath.Join(p.dir, "kernels")
			if err := os.CopyFS(filepath.Join(kernels, "kernels"), os.DirFS(filepath.Join(state, "kernels", "kernels"))); err != nil {
				return err
			}
			store, err := kernel.Open(kernels, binary)
			if err != nil {
				return err
			}
			p.boot, err = store.Boot(context.Background(), "")
			return err
		}()
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.boot
}

// rig is a machine with this agent, and a session with it.
type rig struct {
	t      testing.TB
	config vmm.Config
	m      vmm.Machine
	s      *guest.Session
	line   *line
	hello  wire.Hello
	key    *keyring.Key
	image  dayfly.Image
}

// line is the channel, on which what is said next may be under way for long.
type line struct {
	net.Conn
	late atomic.Int64 // nanoseconds
}

func (l *line) Write(p []byte) (int, error) {
	<-time.After(time.Duration(l.late.Swap(0)))
	return l.Conn.Write(p)
}

const (
	diskSize   = 2 << 30
	machineMiB = 256
)

func newRig(t testing.TB) *rig {
	t.Helper()
	needs.QEMU(t)
	b := shared.prepare(t)
	images, err := image.Open(filepath.Join(needs.State(t), "images"), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := images.Lease(t.Context(), "base")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Close() })
	r := &rig{t: t, image: lease.Image}
	var path string
	path, r.key = newDisk(t)
	r.config = vmm.Config{
		ID: "guesttest", Dir: t.TempDir(), Accel: dayfly.TCG, CPUs: 1, MemoryMiB: machineMiB,
		Kernel: b.Vmlinux, Initramfs: b.Initramfs, Cmdline: b.Cmdline,
		Drives: []vmm.Drive{{Path: lease.Path, ReadOnly: true}, {Path: path}},
		Memory: vmm.Memory{File: memory(t, machineMiB), Shared: true}, // so that it can be restored
	}
	r.launch()
	return r
}

func newDisk(t testing.TB) (string, *keyring.Key) {
	t.Helper()
	dir := t.TempDir()
	keys, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.Create(t.Context(), filepath.Join(dir, "key"), "test")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "disk")
	if err := disk.Create(t.Context(), path, diskSize, key, disk.Options{Seeds: filepath.Join(needs.State(t), "seeds")}); err != nil {
		t.Fatal(err)
	}
	return path, key
}

func (r *rig) launch() {
	r.t.Helper()
	m, err := qemu.New(qemu.Options{}).Launch(r.t.Context(), r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
	r.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			r.t.Error(err)
		}
		if r.t.Failed() {
			r.t.Logf("console: %q", m.Console())
		}
	})
	r.open()
}

// ctx is one with a deadline.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), deadline)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) open() {
	r.t.Helper()
	conn, err := r.m.Channel(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	r.line = &line{Conn: conn}
	r.s, r.hello, err = guest.Open(r.ctx(), r.line)
	if err != nil {
		r.t.Fatalf("Open: %v; console %q", err, r.m.Console())
	}
	s := r.s
	r.t.Cleanup(func() { _ = s.Close() })
}

func (r *rig) initMessage() wire.Init {
	return wire.Init{
		ID: "w1", Hostname: "first", Entropy: bytes.Repeat([]byte{7}, 64), Timestamp: time.Now().Format(time.RFC3339Nano),
		Config: &r.image.Config, DefaultUser: "root", DefaultWorkdir: "/work",
		Root: &wire.Root{Image: "/dev/vda", Disk: "/dev/vdb", DiskKey: append([]byte(nil), r.key[:]...)},
	}
}

func (r *rig) init() wire.InitReply {
	r.t.Helper()
	reply, err := r.s.Init(r.ctx(), r.initMessage())
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

// client speaks the in-guest API.
func (r *rig) client() *wire.Client {
	s := r.s
	transport := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Dial(ctx, wire.AgentPort) },
		DisableCompression: true,
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &wire.Client{HTTP: &http.Client{Transport: transport}, Base: "http://guest"}
}

// begin starts a script and returns its stream.
func (r *rig) begin(script string) (*wire.Stream, error) {
	req := &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}}}
	s, err := r.client().ServerStream(r.ctx(), wire.ProcessStart, req)
	if err != nil {
		return nil, err
	}
	r.t.Cleanup(func() { _ = s.Close() })
	var ev wire.EventResponse
	return s, s.Receive(&ev)
}

// sh runs a script to its end and returns what it says.
func (r *rig) sh(script string) string {
	r.t.Helper()
	s, err := r.begin(script)
	if err != nil {
		r.t.Fatalf("%s: %v", script, err)
	}
	var out bytes.Buffer
	for {
		var ev wire.EventResponse
		if err := s.Receive(&ev); err != nil {
			r.t.Fatalf("%s: %v", script, err)
		}
		if d := ev.Event.Data; d != nil {
			out.Write(d.Stdout)
			out.Write(d.Stderr)
		}
		if end := ev.Event.End; end != nil {
			if end.ExitCode != 0 {
				r.t.Fatalf("%s: %s: %s", script, end.Status, out.String())
			}
			return strings.TrimSpace(out.String())
		}
	}
}

func (r *rig) renewal(identity string) wire.Renew {
	token := ""
	return wire.Renew{
		Generation: "g-1", ID: "w2", Hostname: "second", Identity: identity,
		Entropy: bytes.Repeat([]byte{9}, 64), Timestamp: time.Now().Format(time.RFC3339Nano), AccessToken: &token,
		EnvVars: map[string]string{"WHICH": "copy"},
	}
}

// restore replaces the machine by one that goes on where it was.
func (r *rig) restore() {
	r.t.Helper()
	if err := r.m.Pause(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
	state, err := r.m.Save(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.m.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.config.Dir, r.config.State, r.config.Memory.Shared = r.t.TempDir(), state, false
	r.launch()
}

// memory is a file of that size in RAM.
func memory(t testing.TB, mib int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(int64(mib) << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

func value(t testing.TB, list []wire.Confirmation, name string) string {
	t.Helper()
	for _, c := range list {
		if c.Name == name {
			return c.Value
		}
	}
	t.Errorf("%s is not confirmed in %v", name, list)
	return ""
}

func TestFrozenWorkspaceRunsAndStartsNothing(t *testing.T) {
	r := newRig(t)
	reply := r.init()
	t.Logf("init: %+v", reply)
	if got := value(t, reply.Confirmed, wire.StepHostname); got != "first" {
		t.Errorf("hostname %q", got)
	}
	if got := r.sh("cat /proc/self/cgroup"); !strings.HasSuffix(got, ":/workspace") {
		t.Errorf("a process is in %q", got)
	}
	// One counts in the workspace's group, one in a group beside it.
	s, err := r.begin(`mkdir -p /sys/fs/cgroup/other/deep; n=0
		sh -c 'echo $$ > /sys/fs/cgroup/other/deep/cgroup.procs; echo moved; exec sleep 1000' &
		while :; do n=$((n+1)); echo $n > /run/n; done`)
	if err != nil {
		t.Fatal(err)
	}
	var ev wire.EventResponse
	for ev.Event.Data == nil {
		if err := s.Receive(&ev); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time nothing changes
		n, err := r.s.Freeze(r.ctx())
		if err != nil || n != 2 {
			t.Fatalf("Freeze = %d, %v; want 2 processes", n, err)
		}
	}
	if _, err := r.begin("true"); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("Start in a frozen workspace = %v", err)
	}
	if err := r.s.Thaw(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.sh(`a=$(cat /run/n); while [ "$(cat /run/n)" = "$a" ]; do :; done`)
}

func TestRenewedCopyIsOneOfItsOwn(t *testing.T) {
	r := newRig(t)
	before := value(t, r.init().Confirmed, wire.StepMachineID)
	boot := r.sh("cat /proc/sys/kernel/random/boot_id")
	r.sh(`mkdir -p /etc/dayfly/renew.d; cd /etc/dayfly/renew.d
		printf '#!/bin/sh\necho "$DAYFLY_RENEW $DAYFLY_GENERATION $DAYFLY_WORKSPACE" > /tmp/hook; cat /proc/self/cgroup >> /tmp/hook; sleep 1000 > /dev/null 2>&1 &\n' > 10-note
		printf 'no program' > README; chmod +x 10-note`)
	if _, err := r.begin("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	reply, err := r.s.Renew(r.ctx(), r.renewal(wire.IdentityNew))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("renew: %+v", reply)
	if _, err := r.begin("true"); wire.CodeOf(err) != wire.Unavailable {
		t.Errorf("Start after Renew = %v", err)
	}
	if err := r.s.Thaw(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if got := value(t, reply.Confirmed, wire.StepMachineID); got == before || r.sh("cat /etc/machine-id") != got {
		t.Errorf("machine-id was %s and is said to be %s", before, got)
	}
	if got := value(t, reply.Confirmed, wire.StepBootID); got == boot || r.sh("cat /proc/sys/kernel/random/boot_id") != got {
		t.Errorf("boot id was %s and is said to be %s", boot, got)
	}
	if got := r.sh("hostname; cat /etc/hostname; grep -c second /etc/hosts; cat /run/dayfly/generation; echo $WHICH $E2B_SANDBOX_ID"); got != "second\nsecond\n1\ng-1\ncopy w2" {
		t.Errorf("the copy is %q", got)
	}
	if got := r.sh("cat /tmp/hook"); got != "fork g-1 w2\n0::/dayfly-renew" {
		t.Errorf("the hook saw %q", got)
	}
	if got := value(t, reply.Confirmed, wire.StepHooks); got != "1 run" {
		t.Errorf("hooks: %q", got)
	}
	if got := r.sh(`test ! -e /sys/fs/cgroup/dayfly-renew; for p in $(cat /sys/fs/cgroup/workspace/cgroup.procs); do cat /proc/$p/comm; done 2>/dev/null | grep -c sleep`); got != "2" {
		t.Errorf("%s sleeps are in the workspace's group, want the process's and the hook's", got)
	}

	same, err := r.s.Renew(r.ctx(), r.renewal(wire.IdentitySame))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{wire.StepHostname, wire.StepMachineID, wire.StepBootID} {
		if was, is := value(t, reply.Confirmed, name), value(t, same.Confirmed, name); was != is {
			t.Errorf("%s was %s and is %s", name, was, is)
		}
	}
	if err := r.s.Thaw(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.sh("printf '#!/bin/sh\necho no luck; exit 3\n' > /etc/dayfly/renew.d/20-fails; chmod +x /etc/dayfly/renew.d/20-fails")
	var no *guest.Refusal
	if _, err := r.s.Renew(r.ctx(), r.renewal(wire.IdentitySame)); !errors.As(err, &no) || !strings.Contains(no.Said, "20-fails: exit status 3") || !strings.Contains(no.Said, "no luck") {
		t.Errorf("Renew with a failing hook = %v", err)
	}
}

// TestLateMessageLeavesTheClockRight: one that sets it.
func TestLateMessageLeavesTheClockRight(t *testing.T) {
	const late, close = 700 * time.Millisecond, 150 * time.Millisecond
	r := newRig(t)
	r.init()
	isRight := func(when string) {
		t.Helper()
		from := time.Now().Add(-close)
		at, err := time.Parse(time.RFC3339Nano, r.sh("date -u +%FT%T.%NZ"))
		if err != nil || at.Before(from) || at.After(time.Now().Add(close)) {
			t.Errorf("%s: %v behind, %v", when, time.Since(at), err)
		}
	}
	isRight("at first")
	if _, err := r.s.Freeze(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.line.late.Store(int64(late))
	if err := r.s.Thaw(r.ctx()); err != nil {
		t.Fatal(err)
	}
	isRight("set by a late message")
	for _, forward := range []time.Duration{1500 * time.Millisecond, -1500 * time.Millisecond} { // there and back
		resp, err := r.client().HTTP.Post("http://guest"+wire.ClockPath, "application/json", strings.NewReader(fmt.Sprintf(`{"forward_ns":%d}`, forward)))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("clock: %v, %v", resp, err)
		}
		_ = resp.Body.Close()
		if at, err := time.Parse(time.RFC3339Nano, r.sh("date -u +%FT%T.%NZ")); err != nil || forward > 0 == time.Now().After(at) {
			t.Errorf("moved by %s: %v behind, %v", forward, time.Since(at), err)
		}
	}
	isRight("moved there and back")
}

func TestRehearsalLeavesTheMachineEmpty(t *testing.T) {
	r := newRig(t)
	for i := range 2 {
		began := time.Now()
		reply, err := r.s.Rehearse(r.ctx(), wire.Rehearse{Init: r.initMessage(), Argv: []string{"/bin/sh", "-c", "hostname > /mark; exit 7"}})
		if err != nil || reply.ExitCode != 7 {
			t.Fatalf("Rehearse = %+v, %v", reply, err)
		}
		t.Logf("rehearsal %d took %s: %+v", i, time.Since(began), reply.Timeline)
	}
	// Another disk under another key, larger than what lies behind the device.
	path, key := newDisk(t)
	r.key = key
	if err := r.m.SetDrive(r.ctx(), 1, vmm.Drive{Path: path}); err != nil {
		t.Fatal(err)
	}
	in := r.initMessage()
	in.Root.DiskSize = diskSize
	reply, err := r.s.Init(r.ctx(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("init after rehearsal: %+v", reply.Timeline)
	if got := r.sh("test ! -e /mark && ls /dev/mapper /sys/block | grep -c dm- && cat /proc/1/mounts | grep -c overlay"); got != "1\n1" {
		t.Errorf("dm devices and overlays: %q", got)
	}
}

func TestNextHostIsHeardAtOnce(t *testing.T) {
	r := newRig(t)
	r.init()
	for range 8 {
		if _, err := r.begin("sleep 1000"); err != nil {
			t.Fatal(err)
		}
		_ = r.s.Close()
		began := time.Now()
		r.open()
		t.Logf("back after %s", time.Since(began))
		if !r.hello.Init {
			t.Error("the agent has forgotten its Init")
		}
	}
	if got := r.sh("echo still"); got != "still" {
		t.Errorf("it says %q", got)
	}
}

func TestRestoredAgentIsHeard(t *testing.T) {
	r := newRig(t)
	r.init()
	if _, err := r.begin("yes"); err != nil { // an old session in the middle of much to say
		t.Fatal(err)
	}
	if _, err := r.s.Freeze(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.restore()
	reply, err := r.s.Renew(r.ctx(), r.renewal(wire.IdentityNew))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("renew: %+v", reply)
	if got := value(t, reply.Confirmed, wire.StepSockets); got == "0 dropped" {
		t.Errorf("sockets: %s", got)
	}
	if err := r.s.Thaw(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if got := r.sh("hostname; pgrep -c yes"); got != "second\n1" {
		t.Errorf("it says %q", got)
	}
}
