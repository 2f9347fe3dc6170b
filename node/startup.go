package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
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

func orElse(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
