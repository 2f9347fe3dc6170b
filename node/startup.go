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
	"github.com/dayfly/dayfly/template"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// row is a stage of a start.
type row struct {
	name string
	do   func(*start, context.Context) error
}

// startup is the product in one table. Each row is a stage of the timeline, a
// failure in the tests and a heading in docs/startup.md.
var startup = []row{
	{"home", (*start).home},
	{"image", (*start).image},
	{"kernel", (*start).kernel},
	{"template", (*start).template},
	{"disk", (*start).disk},
	{"vmm", (*start).machine},
	{"boot", (*start).hello},
	{"init", (*start).init},
	{"limits", (*start).limits},
}

// start is one run through the table.
type start struct {
	w     *workspace
	ws    *dayfly.Workspace // what the record will say
	was   dayfly.Workspace  // what it says now
	fresh bool              // the disk is to be made, rather than found
	back  undo.Stack
	clock clock

	boot    kernel.Boot
	key     *keyring.Key
	origin  *origin                     // what the workspace is a copy of, or nil
	spare   *spare                      // a standby machine to claim, or nil
	base    *template.Template          // what the machine begins as; nil: it boots
	disks   *disk.Content               // what the disk is to hold for that; nil: nothing
	state   []byte                      // what the machine goes on from; nil: it boots
	fill    func(context.Context) error // loads parts.memory; nil: it is whole
	durable <-chan error                // says when the disk and its key are on the medium; nil: nobody asked
	parts   parts
}

// Deadlines of the rows that wait for the guest. Software emulation on a busy
// host is the slowest case they allow for.
const (
	bootDeadline = 90 * time.Second
	initDeadline = 60 * time.Second

	restoreDeadline = 20 * time.Second // then a kernel boots instead
)

// start works through a table: that of a fresh machine, or that of a copy. On
// error it takes back every row: a workspace that is new is gone, and another is
// what it was before.
func (w *workspace) start(ctx context.Context, c clock, from *origin) (err error) {
	if err := w.node.mayLimit(w.view.Load().Spec); err != nil {
		return staged("limits", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.cancel.Store(&cancel)
	defer w.cancel.Store(nil)
	ws := *w.view.Load()
	s := &start{w: w, was: ws, fresh: ws.State == dayfly.Creating, clock: c, origin: from, spare: w.spare}
	w.spare = nil
	if !s.fresh {
		if err := ws.State.To(dayfly.Creating); err != nil {
			return err
		}
	}
	ws.Reason, ws.Timeline, ws.State = "", nil, dayfly.Creating
	s.ws = &ws
	w.show(ws) // the record of one that is not new says what it was until it runs
	defer s.forget()
	rows := startup
	if from != nil && !from.cold {
		rows = revival
	}
	for _, row := range rows {
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
	if err := s.publish(ctx); err != nil {
		return s.fail(ctx, "record", err)
	}
	w.mergeAfterStart()
	if from != nil && from.gen != nil && (from.cold || !from.quick()) {
		w.verifyBehind(from.take())
	}
	return nil
}

// forget clears what is secret.
func (s *start) forget() {
	if s.key != nil {
		s.key.Clear()
	}
	if s.base == nil {
		clear(s.state)
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
	ws := s.was
	if s.fresh {
		ws.State = dayfly.Deleted
	}
	s.w.show(ws)
	return staged(row, err)
}

// staged returns err as one that may leave this process, with its stage.
func staged(row string, err error) error {
	var e *dayfly.Error
	switch err = noSpace(err); {
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

// home makes a new workspace's directory and first record.
func (s *start) home(context.Context) error {
	if !s.fresh {
		return nil
	}
	if err := os.Mkdir(s.w.dir, 0o700); err != nil && s.spare == nil { // which has it already
		return noSpace(err)
	}
	s.back.Push("home", func(context.Context) error { return removeHome(s.w.dir) })
	if s.spare != nil {
		s.back.Push("spare", func(context.Context) error { return s.dropSpare() })
	}
	return noSpace(s.w.record(*s.ws).write(s.w.dir))
}

// image takes a lease on the prepared root file system.
func (s *start) image(ctx context.Context) error {
	name := s.ws.Spec.Image
	if s.ws.Image.Digest != "" {
		name = s.ws.Image.Digest // what the disk lies over, wherever the name points by now
	}
	lease, err := s.w.node.Images.Lease(ctx, name)
	if err != nil {
		return err
	}
	s.back.Push("image", func(context.Context) error { return lease.Close() })
	s.parts.lease = lease
	if s.ws.Image.Digest == "" {
		s.ws.Image = lease.Image
	}
	return nil
}

func (s *start) kernel(ctx context.Context) error {
	id := ""
	if s.origin != nil && !s.origin.cold {
		id = s.origin.made.Kernel // with which the VMM must find the same machine
	}
	boot, err := s.w.node.Kernels.Boot(ctx, id)
	s.boot, s.ws.Kernel = boot, boot.Kernel.ID
	return err
}

const keyFile = "key"

// disk makes the private disk and its key, or finds those of a stopped workspace.
func (s *start) disk(ctx context.Context) (err error) {
	if s.origin != nil {
		return s.inherit(ctx)
	}
	if !s.fresh {
		if err := restoreChain(s.w.dir); err != nil { // there may have been no room for that before
			return err
		}
		s.key, err = s.w.key(ctx)
		return err
	}
	keys, keyPath, diskPath := s.w.node.Keys, filepath.Join(s.w.dir, keyFile), filepath.Join(s.w.dir, diskFile)
	s.key, err = keys.Create(ctx, keyPath, string(s.w.id))
	if err != nil {
		return err
	}
	s.back.Push("key", func(context.Context) error { return keys.Forget(keyPath) })
	size := int64(s.ws.Spec.DiskMiB) << 20
	s.back.Push("disk", func(context.Context) error { return disk.Wipe(diskPath) })
	return disk.Create(ctx, diskPath, size, s.key, s.w.node.diskOptions(s.disks))
}

// diskOptions make a disk with a content, or an empty one.
func (n *Node) diskOptions(content *disk.Content) disk.Options {
	return disk.Options{Seeds: filepath.Join(n.Dir, "seeds"), Content: content, Log: n.Log}
}

// template finds what the machine begins as. Whatever is wrong with that is no
// reason not to start: then a kernel boots.
func (s *start) template(ctx context.Context) (err error) {
	spec := s.ws.Spec
	layered, err := s.layered()
	if err != nil {
		return err
	}
	made, err := s.w.node.choose(ctx, spec.Accel, s.boot, layered)
	if err != nil {
		return err
	}
	s.ws.Accel = made.accel
	if s.spare == nil {
		s.w.node.expectOne(made)
	}
	key, err := s.w.node.templateKey(ctx, made, s.boot, spec.CPUs, spec.MemoryMiB)
	if err != nil {
		return err
	}
	s.parts.made = machineOf(key)
	s.ws.StartKind, s.ws.StartNote = dayfly.Cold, ""
	if spec.Cold {
		s.ws.StartNote = "a cold start was asked for"
		return nil
	}
	prepared := preparedKey(key, s.ws.Image, spec.DiskMiB)
	if s.spare != nil {
		if id := s.spare.key.ID(); id == key.ID() || id == prepared.ID() {
			s.ws.StartKind, s.disks = dayfly.Claim, s.spare.content
			return nil
		}
		if err := s.dropSpare(); err != nil { // made for what is out of date
			return err
		}
	}
	err = s.findTemplate(ctx, key, prepared)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		s.coldBecause("there is no template: ", err)
	default:
		s.ws.StartKind = dayfly.Restore
	}
	return nil
}

// findTemplate opens the image's template, or else the base template. The
// image's is made when the image is started for the second time: until then
// nobody knows that it will be of use.
func (s *start) findTemplate(ctx context.Context, key, prepared template.Key) (err error) {
	n := s.w.node
	var t *template.Template
	empty := s.fresh && s.origin == nil // else it has a disk already
	if empty && (n.templates.Has(prepared) || n.standby.Count == 0 && n.templates.Wanted(prepared)) {
		if t, s.disks, err = n.prepared(ctx, prepared, s.boot, s.parts.lease); err != nil {
			n.Log.Warn("no template of the image", "image", prepared.Image, "err", err)
			n.templates.Unwanted(prepared)
		}
	}
	if t == nil {
		t, err = n.template(ctx, key, s.boot)
	}
	if err != nil {
		return err
	}
	s.back.Push("template", func(context.Context) error { return t.Close() })
	s.base, s.state, s.parts.memory = t, t.State, t.Memory
	return nil
}

// coldBecause notes why a kernel boots where a template should have served.
func (s *start) coldBecause(what string, err error) {
	s.w.node.Log.Warn("cold start instead of a restore", "workspace", s.w.id, "err", err)
	s.ws.StartKind, s.ws.StartNote = dayfly.Cold, what+firstLine(err)
	if s.base != nil {
		_ = s.base.Close() // a file that was only read
		s.back.Drop("template")
	}
	s.base, s.state, s.parts.memory = nil, nil, nil
}

// emptyDisk makes the disk anew if it holds what a machine had prepared: one
// that boots would take the names in it for its own.
func (s *start) emptyDisk(ctx context.Context) error {
	if s.disks == nil {
		return nil
	}
	s.disks = nil
	path := filepath.Join(s.w.dir, diskFile)
	if err := disk.Wipe(path); err != nil {
		return err
	}
	return disk.Create(ctx, path, int64(s.ws.Spec.DiskMiB)<<20, s.key, s.w.node.diskOptions(nil))
}

// machine claims a standby machine or launches the VMM.
func (s *start) machine(ctx context.Context) error {
	if s.spare != nil {
		s.settle()
		err := s.claim(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.coldBecause("the standby machine could not be claimed: ", err)
		if err := errors.Join(s.dropSpare(), s.emptyDisk(ctx)); err != nil {
			return err
		}
	}
	err := s.launch(ctx)
	if err != nil && s.base != nil && ctx.Err() == nil {
		s.coldBecause("the template could not be restored: ", err)
		if err := s.emptyDisk(ctx); err != nil {
			return err
		}
		err = s.launch(ctx)
	}
	return err
}

func (s *start) launch(ctx context.Context) error {
	private, err := s.privateDisk(ctx)
	if err != nil {
		return err
	}
	s.settle()
	c := vmm.Config{
		ID:        string(s.w.id),
		Dir:       s.w.dir,
		Accel:     s.ws.Accel,
		CPUs:      s.ws.Spec.CPUs,
		MemoryMiB: s.ws.Spec.MemoryMiB,
		Kernel:    s.boot.Vmlinux,
		Initramfs: s.boot.Initramfs,
		Cmdline:   s.boot.Cmdline,
		Drives:    []vmm.Drive{{Path: s.parts.lease.Path, ReadOnly: true}, private},
		Memory:    vmm.Memory{File: s.parts.memory, Fill: s.fill},
		State:     s.state,
		Orphan:    s.w.node.Outlive,
	}
	m, in, err := s.w.node.launch(ctx, s.w.node.driverOf(s.parts.made.VMM), c)
	if err != nil {
		return err
	}
	s.back.Push("vmm", func(context.Context) error { return m.Close() })
	s.parts.machine, s.parts.cell = m, in
	return nil
}

// hello waits until the agent answers, the machine ends, or the deadline is over.
func (s *start) hello(ctx context.Context) error {
	if s.spare != nil {
		return nil // it has said it
	}
	deadline := s.w.node.BootDeadline
	if s.state != nil {
		deadline = min(deadline, restoreDeadline)
	}
	session, err := meet(ctx, s.parts.machine, deadline)
	if err != nil && s.base != nil && ctx.Err() == nil {
		s.coldBecause("the restored machine did not answer: ", err)
		s.back.Drop("vmm")
		if err := errors.Join(s.parts.machine.Close(), s.emptyDisk(ctx)); err != nil {
			return err
		}
		if err := s.launch(ctx); err != nil {
			return err
		}
		session, err = meet(ctx, s.parts.machine, s.w.node.BootDeadline)
	}
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
	var no *guest.Refusal
	if errors.As(err, &no) { // it answers, so it has not ended
		return dayfly.Errorf(dayfly.Unavailable, "the guest could not prepare the workspace: %q%s", no.Said, consoleNote(m))
	}
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

func freshEntropy() []byte {
	b := make([]byte, entropyLen)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

// init makes the machine this workspace.
func (s *start) init(ctx context.Context) error {
	if s.disks != nil {
		return s.becomeOne(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its preparations within %s", initDeadline))
	defer cancel()
	spec, cfg := s.ws.Spec, s.ws.Image.Config
	former, strays, err := s.w.formerNames(s.origin)
	if err != nil {
		return err
	}
	at := s.clock.ms()
	reply, err := s.parts.session.Init(ctx, wire.Init{
		ID:             string(s.w.id),
		Hostname:       spec.Name,
		Entropy:        freshEntropy(),
		Timestamp:      now().Format(time.RFC3339Nano),
		EnvVars:        spec.Env,
		DefaultUser:    orElse(spec.User, cfg.User),
		DefaultWorkdir: orElse(spec.Workdir, cfg.Workdir),
		Config:         &cfg,
		Former:         former,
		Strays:         strays,
		Restored:       s.ws.StartKind != dayfly.Cold,
		Root: &wire.Root{
			Image: rootDevice, Disk: diskDevice, DiskKey: append([]byte(nil), s.key[:]...),
			DiskSize: int64(spec.DiskMiB) << 20, // a restored guest sees a larger device
		},
	})
	if err != nil {
		return whyEnded(ctx, s.parts.machine, err)
	}
	s.subStages("init", at, reply.Timeline)
	return nil
}

// becomeOne makes a prepared machine this workspace.
func (s *start) becomeOne(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its preparations within %s", initDeadline))
	defer cancel()
	spec, cfg, at := s.ws.Spec, s.ws.Image.Config, s.clock.ms()
	reply, err := becomeOne(ctx, s.parts.session, wire.Renew{
		Generation:     string(s.w.id),
		ID:             string(s.w.id),
		Hostname:       spec.Name,
		EnvVars:        orNone(spec.Env),
		DefaultUser:    orElse(spec.User, cfg.User),
		DefaultWorkdir: orElse(spec.Workdir, cfg.Workdir),
	}, s.key)
	if err != nil {
		return s.unrenewed(ctx, err)
	}
	s.subStages("init", at, reply.Timeline)
	return nil
}

// orNone makes no variables an empty set of them, which is sent as that.
func orNone(env map[string]string) map[string]string {
	if env == nil {
		return map[string]string{}
	}
	return env
}

// subStages notes what the guest says a stage consisted of.
func (s *start) subStages(stage string, at float64, line dayfly.Timeline) {
	for _, sub := range line[:min(len(line), maxSubStages)] {
		s.ws.Timeline = append(s.ws.Timeline, dayfly.Stage{Name: clip(sub.Name), At: at + sub.At, Took: sub.Took, Within: stage})
	}
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
