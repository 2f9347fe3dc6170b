package node

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// startup is the product in one table. Each row is a stage of the timeline, a
// failure in the tests and a heading in docs/startup.md.
var startup = []struct {
	name string
	do   func(*start, context.Context) error
}{
	{"home", (*start).home},
	{"image", (*start).image},
	{"kernel", (*start).kernel},
	{"disk", (*start).disk},
	{"vmm", (*start).machine},
	{"boot", (*start).hello},
	{"init", (*start).init},
}

// start is one run through the table.
type start struct {
	w     *workspace
	ws    *dayfly.Workspace // what the record will say
	fresh bool              // the disk is to be made, rather than found
	back  undo.Stack
	clock clock

	boot  kernel.Boot
	key   *keyring.Key
	parts parts
}

// Deadlines of the rows that wait for the guest. Software emulation on a busy
// host is the slowest case they allow for.
const (
	bootDeadline = 90 * time.Second
	initDeadline = 60 * time.Second
)

// start works through the table. On error it takes back every row, and a
// workspace that is new is gone.
func (w *workspace) start(ctx context.Context, c clock) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.cancel.Store(&cancel)
	defer w.cancel.Store(nil)
	ws := *w.view.Load()
	fresh := ws.State == dayfly.Creating
	if !fresh {
		if err := ws.State.To(dayfly.Creating); err != nil {
			return err
		}
	}
	ws.Reason, ws.Timeline, ws.State = "", nil, dayfly.Creating
	s := &start{w: w, ws: &ws, fresh: fresh, clock: c}
	defer s.clearKey()
	for _, row := range startup {
		at := s.clock.ms()
		if err = context.Cause(ctx); err == nil {
			err = row.do(s, ctx)
		}
		s.stage(row.name, at)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause // why it was cut short, rather than how that looked from below
			}
			return s.fail(ctx, row.name, err)
		}
	}
	if err := s.publish(); err != nil {
		return s.fail(ctx, "record", err)
	}
	return nil
}

// publish makes the workspace a running one.
func (s *start) publish() error {
	ws := *s.ws
	ws.State = dayfly.Running
	if err := writeRecord(s.w.dir, ws); err != nil {
		return err
	}
	s.w.parts = s.parts
	s.w.session.Store(s.parts.session)
	if t := ws.Spec.Timeout; t > 0 {
		s.w.expires = time.After(time.Duration(t) * time.Second)
	}
	s.w.view.Store(&ws)
	s.w.node.Log.Info("workspace state", "workspace", s.w.id, "state", ws.State)
	return nil
}

func (s *start) clearKey() {
	if s.key != nil {
		s.key.Clear()
	}
}

// stage notes a finished row, ahead of the sub-stages it noted itself.
func (s *start) stage(name string, at float64) {
	st := dayfly.Stage{Name: name, At: at, Took: s.clock.ms() - at}
	i := len(s.ws.Timeline)
	for i > 0 && s.ws.Timeline[i-1].Within == name {
		i--
	}
	s.ws.Timeline = append(s.ws.Timeline[:i:i], append(dayfly.Timeline{st}, s.ws.Timeline[i:]...)...)
	s.w.node.Log.Debug("stage done", "workspace", s.w.id, "stage", name, "took", st.Took)
}

// fail takes back what was done and returns err with the row's name as stage.
func (s *start) fail(ctx context.Context, row string, err error) error {
	undone := s.back.Run(ctx)
	if undone != nil {
		s.w.node.Log.Error("undo of a start", "workspace", s.w.id, "stage", row, "err", undone)
	}
	ws := *s.ws
	ws.Timeline = nil
	switch {
	case s.fresh:
		ws.State = dayfly.Deleted
		s.w.view.Store(&ws)
	default:
		msg := err.Error()
		_ = s.w.become(dayfly.Creating, nil)
		_ = s.w.become(dayfly.Failed, func(ws *dayfly.Workspace) { ws.Reason = row + ": " + msg })
	}
	return staged(row, err)
}

// staged returns err as one that may leave this process, with its stage.
func staged(row string, err error) error {
	var e *dayfly.Error
	switch {
	case errors.As(err, &e):
		out := *e
		if out.Stage == "" {
			out.Stage = row
		}
		return &out
	case errors.Is(err, context.Canceled):
		return &dayfly.Error{Kind: dayfly.Unavailable, Stage: row, Msg: "the start was cancelled; nothing is left of it", Err: err}
	default:
		return &dayfly.Error{Kind: dayfly.Internal, Stage: row, Msg: "the host could not do this; its log says why", Err: err}
	}
}

// home makes the workspace's directory and first record.
func (s *start) home(context.Context) error {
	if s.fresh {
		if err := os.Mkdir(s.w.dir, 0o700); err != nil {
			return err
		}
		s.back.Push("home", func(context.Context) error { return removeHome(s.w.dir) })
	}
	return writeRecord(s.w.dir, *s.ws)
}

// image takes a lease on the prepared root file system.
func (s *start) image(ctx context.Context) error {
	name := s.ws.Spec.Image
	if !s.fresh {
		name = s.ws.Image.Digest // what the disk lies over, wherever the name points by now
	}
	lease, err := s.w.node.Images.Lease(ctx, name)
	if err != nil {
		return err
	}
	s.back.Push("image", func(context.Context) error { return lease.Close() })
	s.parts.lease = lease
	if s.fresh {
		s.ws.Image = lease.Image
	}
	return nil
}

func (s *start) kernel(ctx context.Context) error {
	boot, err := s.w.node.Kernels.Boot(ctx, "")
	s.boot, s.ws.Kernel = boot, boot.Kernel.ID
	return err
}

const (
	diskFile = "disk"
	keyFile  = "key"
)

// disk makes the private disk and its key, or finds those of a stopped workspace.
func (s *start) disk(ctx context.Context) (err error) {
	keys, keyPath, diskPath := s.w.node.Keys, filepath.Join(s.w.dir, keyFile), filepath.Join(s.w.dir, diskFile)
	if !s.fresh {
		s.key, err = keys.Load(ctx, keyPath, string(s.w.id))
		return err
	}
	s.key, err = keys.Create(ctx, keyPath, string(s.w.id))
	if err != nil {
		return err
	}
	s.back.Push("key", func(context.Context) error { return keys.Forget(keyPath) })
	size := int64(s.ws.Spec.DiskMiB) << 20
	if err := disk.Create(ctx, diskPath, size, s.key, disk.Options{Seeds: filepath.Join(s.w.node.Dir, "seeds")}); err != nil {
		return err
	}
	s.back.Push("disk", func(context.Context) error { return disk.Wipe(diskPath) })
	return nil
}

// machine launches the VMM.
func (s *start) machine(ctx context.Context) (err error) {
	s.ws.Accel, err = s.w.node.accel(ctx, s.ws.Spec.Accel, s.boot)
	if err != nil {
		return err
	}
	s.ws.StartKind = dayfly.Cold
	m, err := s.w.node.Driver.Launch(ctx, vmm.Config{
		ID:        string(s.w.id),
		Dir:       s.w.dir,
		Accel:     s.ws.Accel,
		CPUs:      s.ws.Spec.CPUs,
		MemoryMiB: s.ws.Spec.MemoryMiB,
		Kernel:    s.boot.Vmlinux,
		Initramfs: s.boot.Initramfs,
		Cmdline:   s.boot.Cmdline,
		Drives:    []vmm.Drive{{Path: s.parts.lease.Path, ReadOnly: true}, {Path: filepath.Join(s.w.dir, diskFile)}},
	})
	if err != nil {
		return err
	}
	s.back.Push("vmm", func(context.Context) error { return m.Close() })
	s.parts.machine = m
	return nil
}

// hello waits until the agent answers, the machine ends, or the deadline is over.
func (s *start) hello(ctx context.Context) error {
	session, err := meet(ctx, s.parts.machine, s.w.node.BootDeadline)
	if err != nil {
		return err
	}
	s.back.Push("session", func(context.Context) error { return session.Close() })
	s.parts.session = session
	return nil
}

// meet opens the channel of a machine and waits for its agent's hello.
func meet(ctx context.Context, m vmm.Machine, deadline time.Duration) (*guest.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, dayfly.Errorf(dayfly.Unavailable, "no word from the guest's agent within %s", deadline))
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	go func() {
		select {
		case <-m.Done():
			ended(dayfly.Errorf(dayfly.Unavailable, "%s", endReason(m)))
		case <-ctx.Done():
		}
	}()
	conn, err := m.Channel(ctx)
	if err != nil {
		return nil, whyEnded(ctx, m, err)
	}
	session, _, err := guest.Open(ctx, conn)
	if err != nil {
		return nil, whyEnded(ctx, m, err)
	}
	return session, nil
}

// endGrace is how long a machine whose channel broke gets to be seen as ended,
// which says more than the broken channel does.
const endGrace = time.Second

// whyEnded prefers the cause that ended ctx, then the machine's end, with the
// last lines of the console where the cause does not have them.
func whyEnded(ctx context.Context, m vmm.Machine, err error) error {
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-ctx.Done():
	case <-m.Done():
		return dayfly.Errorf(dayfly.Unavailable, "%s", endReason(m))
	case <-grace.C:
		return dayfly.Errorf(dayfly.Unavailable, "the guest's agent makes no sense: %v%s", err, consoleNote(m))
	}
	cause := context.Cause(ctx)
	var e *dayfly.Error
	if errors.As(cause, &e) && !strings.Contains(e.Msg, consoleHead) {
		return dayfly.Errorf(e.Kind, "%s%s", e.Msg, consoleNote(m))
	}
	return cause
}

// entropyLen is how much fresh randomness a workspace starts with: the state of
// the kernel's generator (drivers/char/random.c: 256 bits) twice over.
const entropyLen = 64

// init makes the empty VM this workspace.
func (s *start) init(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its preparations within %s", initDeadline))
	defer cancel()
	entropy := make([]byte, entropyLen)
	_, _ = rand.Read(entropy)
	spec, cfg := s.ws.Spec, s.ws.Image.Config
	at := s.clock.ms()
	reply, err := s.parts.session.Init(ctx, wire.Init{
		ID:             string(s.w.id),
		Hostname:       spec.Name,
		Entropy:        entropy,
		Timestamp:      now().Format(time.RFC3339Nano),
		EnvVars:        spec.Env,
		DefaultUser:    orElse(spec.User, cfg.User),
		DefaultWorkdir: orElse(spec.Workdir, cfg.Workdir),
		Config:         &cfg,
		Root:           &wire.Root{Image: "/dev/vda", Disk: "/dev/vdb", DiskKey: append([]byte(nil), s.key[:]...)},
	})
	var no *guest.Refusal
	if errors.As(err, &no) {
		return dayfly.Errorf(dayfly.Unavailable, "the guest could not prepare the workspace: %q%s", no.Said, consoleNote(s.parts.machine))
	}
	if err != nil {
		return whyEnded(ctx, s.parts.machine, err)
	}
	for _, sub := range reply.Timeline[:min(len(reply.Timeline), maxSubStages)] {
		s.ws.Timeline = append(s.ws.Timeline, dayfly.Stage{Name: clip(sub.Name), At: at + sub.At, Took: sub.Took, Within: "init"})
	}
	return nil
}

// maxSubStages bounds what a guest can add to a timeline.
const maxSubStages = 32

// clip keeps the first letters of a name the guest chose.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x21 || r > 0x7e {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 32)]
}

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
