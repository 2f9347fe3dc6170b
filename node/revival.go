package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/template"
)

// revival is the start of a copy: of a paused workspace, a snapshot, or a
// running one. Its processes stand still from the first instruction until
// "thaw", before which its agent must have confirmed that it is one of its own.
var revival = []row{
	{"home", (*start).home},
	{"image", (*start).image},
	{"kernel", (*start).kernel},
	{"saved", (*start).saved},
	{"disk", (*start).disk},
	{"memory", (*start).memory},
	{"vmm", (*start).machine}, // which loads the memory while the VMM starts
	{"boot", (*start).hello},
	{"renew", (*start).renew},
	{"limits", (*start).limits}, // before its processes go on
	{"thaw", (*start).thaw},
}

// origin is what a copy is made of.
type origin struct {
	kind     dayfly.StartKind
	identity string // wire.IdentitySame or wire.IdentityNew
	made     snapshot.Machine
	former   string               // host name of what it is a copy of
	cold     bool                 // only the disk is wanted
	layers   []string             // of the disk, the uppermost first
	gen      *snapshot.Generation // has state and memory, unless they are here
	state    []byte
	memory   *os.File
	key      *keyring.Key // of the disk; nil: the workspace has it
}

// close lets go of what is open, but not of what a photo has.
func (o *origin) close() {
	if o.gen != nil {
		_ = o.gen.Close()
		o.key.Clear()
	}
}

// take hands the generation over.
func (o *origin) take() *snapshot.Generation {
	gen := o.gen
	o.gen = nil
	o.key.Clear()
	return gen
}

// machineOf says what a machine's state depends on: less than a template, which
// must also be the same kernel.
func machineOf(k template.Key) snapshot.Machine {
	return snapshot.Machine{
		VMM: k.VMM, VMMVersion: k.VMMVersion, Accel: string(k.Accel), CPUModel: k.CPUModel,
		Kernel: k.Kernel, CPUs: k.CPUs, MemoryMiB: k.MemoryMiB,
	}
}

// saved checks that this host can go on from the state, and reads it.
func (s *start) saved(ctx context.Context) (err error) {
	made := s.origin.made
	driver := s.w.node.driverOf(made.VMM)
	key, err := s.w.node.templateKey(ctx, choice{driver, dayfly.Accel(made.Accel)}, s.boot, made.CPUs, made.MemoryMiB)
	if err != nil {
		return err
	}
	if err := fits(made, machineOf(key)); err != nil {
		return err
	}
	if made.Accel == string(dayfly.KVM) {
		if _, err := s.w.node.accel(ctx, driver, dayfly.KVM, s.boot); err != nil {
			return err
		}
	}
	s.w.node.expectOne(choice{driver, dayfly.Accel(made.Accel)})
	s.ws.Accel, s.ws.Kernel, s.parts.made = dayfly.Accel(made.Accel), made.Kernel, made
	s.ws.StartKind, s.ws.StartNote = s.origin.kind, ""
	s.ws.Spec.CPUs, s.ws.Spec.MemoryMiB = made.CPUs, made.MemoryMiB // which an Update may have changed since
	if s.origin.gen == nil {
		s.state = append([]byte(nil), s.origin.state...)
		return nil
	}
	s.state, err = s.origin.gen.State(ctx)
	return err
}

// fits says why a machine that was saved there cannot go on here.
func fits(there, here snapshot.Machine) error {
	for _, f := range []struct{ what, there, here string }{
		{"the VMM", there.VMM, here.VMM},
		{"the VMM's version", there.VMMVersion, here.VMMVersion},
		{"the processor", there.CPUModel, here.CPUModel},
	} {
		if f.there != f.here {
			return dayfly.Errorf(dayfly.Unavailable, "the saved memory cannot be used on this host: %s was %q and is %q here; "+
				"start cold from the disk instead (a paused workspace: dayfly stop, then start; a snapshot: run --snapshot with --cold)", f.what, f.there, f.here)
		}
	}
	return nil
}

// inherit gives the workspace the disk of its origin, and a wrap of its own of
// the key.
func (s *start) inherit(ctx context.Context) (err error) {
	if s.fresh {
		path := filepath.Join(s.w.dir, keyFile)
		if err := s.w.node.Keys.Adopt(ctx, path, string(s.w.id), s.origin.key); err != nil {
			return err
		}
		s.back.Push("key", func(context.Context) error { return s.w.node.Keys.Forget(path) })
		if err := linkChain(s.w.dir, s.origin.layers); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.w.dir, formerFile), []byte(s.origin.former), 0o600); err != nil {
			return noSpace(err)
		}
	} else {
		if err := keepChain(s.w.dir); err != nil {
			return err
		}
		s.back.Push("layers", func(context.Context) error { return restoreChain(s.w.dir) })
		if err := alignChain(s.w.dir, s.origin.layers); err != nil {
			return err
		}
	}
	s.key, err = s.w.key(ctx)
	return err
}

// formerFile has the host name of what the workspace is a copy of. It goes when
// the guest has written its disk out: until then that may hold the other's names.
const formerFile = "former"

// formerNames returns the host name of the workspace whose disk this one starts
// with, if it starts with one, and the names that the disk may still hold of
// another, as a machine that ended by force took its own with it.
func (w *workspace) formerNames(from *origin) (former string, strays []string, err error) {
	if from != nil {
		return from.former, nil, nil
	}
	strays = []string{nobody}
	name, err := os.ReadFile(filepath.Join(w.dir, formerFile))
	if err == nil && len(name) > 0 {
		strays = append(strays, string(name))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return "", strays, err
}

// memory makes room for the RAM, or finds that of a photo.
func (s *start) memory(ctx context.Context) error {
	if s.origin.memory != nil {
		f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(s.origin.memory.Fd()))) // the file, open once more
		if err != nil {
			return err
		}
		s.back.Push("memory", func(context.Context) error { return f.Close() })
		s.parts.memory = f
		return nil
	}
	f, err := newMemory(int64(s.origin.made.MemoryMiB) << 20)
	if err != nil {
		return err
	}
	s.back.Push("memory", func(context.Context) error { return f.Close() })
	s.parts.memory = f
	s.fill = s.load
	return nil
}

// renewDeadline allows for the hooks of user space: see docs/formats/guest.md.
const renewDeadline = 60 * time.Second

// renew makes the copy one of its own, or the machine is thrown away.
func (s *start) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, renewDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not confirm its new identity within %s", renewDeadline))
	defer cancel()
	spec, cfg := s.ws.Spec, s.ws.Image.Config
	at := s.clock.ms()
	reply, err := s.parts.session.Renew(ctx, wire.Renew{
		Generation:     strings.ToLower(rand.Text()),
		ID:             string(s.w.id),
		Hostname:       spec.Name,
		Identity:       s.origin.identity,
		Entropy:        freshEntropy(),
		Timestamp:      time.Now().UTC().Format(time.RFC3339Nano),
		EnvVars:        orNone(spec.Env),
		DefaultUser:    orElse(spec.User, cfg.User),
		DefaultWorkdir: orElse(spec.Workdir, cfg.Workdir),
	})
	if err != nil {
		return s.unrenewed(ctx, err)
	}
	s.subStages("renew", at, reply.Timeline)
	return nil
}

// unrenewed says why a copy is thrown away.
func (s *start) unrenewed(ctx context.Context, err error) error {
	var no *guest.Refusal
	var silent *guest.Unconfirmed
	switch {
	case errors.As(err, &no):
		return dayfly.Errorf(dayfly.Unavailable, "the copy could not renew itself and was ended: %q", no.Said)
	case errors.As(err, &silent):
		return dayfly.Errorf(dayfly.Unavailable, "the copy did not confirm %q and was ended: it might have had what is the original's", strings.Join(silent.Missing, ", "))
	}
	return whyEnded(ctx, s.parts.machine, err)
}

func (s *start) thaw(ctx context.Context) error { return thaw(ctx, s.parts.session) }

// resume lets a paused workspace go on, or one whose machine ended after a pause
// go back to there.
func (w *workspace) resume(ctx context.Context, c clock) error {
	w.abandon()
	ws := w.view.Load()
	last, err := w.lastPause()
	if err != nil {
		return err
	}
	if last == 0 || ws.State != dayfly.Paused && ws.State != dayfly.Failed {
		return dayfly.Errorf(dayfly.Conflict, "workspace %s is %s%s: only a paused one can be resumed", w.id, ws.State, because(ws.Reason))
	}
	key, err := w.key(ctx)
	if err != nil {
		return err
	}
	from, err := openOrigin(filepath.Join(w.dir, pausesDir, strconv.Itoa(last)), key)
	if err != nil {
		return w.unusable(err)
	}
	defer from.close()
	from.kind, from.identity = dayfly.Resume, wire.IdentitySame
	if err := w.start(ctx, c, from); err != nil {
		return w.unusable(err)
	}
	if err := dropChain(w.dir); err != nil {
		w.node.Log.Error("removal of an older disk", "workspace", w.id, "err", err)
	}
	// The one before is needed no more, as this one has been resumed. Giving a
	// large file back takes the file system longer than the resume took.
	w.behind.Go(func() {
		if err := errors.Join(w.dropPauses(last), dropChain(w.dir)); err != nil {
			w.node.Log.Error("removal of an older pause", "workspace", w.id, "err", err)
		}
	})
	return nil
}

// unusable says what else can be done where a pause is damaged.
func (w *workspace) unusable(err error) error {
	if !errors.Is(err, snapshot.ErrDamaged) {
		return err
	}
	numbers, _ := w.pauses()
	what := fmt.Sprintf("dayfly stop %s gives its memory up, and dayfly start %[1]s then boots from its disk", w.id)
	if len(numbers) > 1 {
		what = fmt.Sprintf("dayfly rollback %s %s goes back to the pause before it; or %s", w.id, dayfly.PreviousPause, what)
	}
	return &dayfly.Error{Kind: dayfly.KindOf(err), Stage: "saved", Msg: gist(err) + ": " + what, Err: err}
}

// gist is what an error says without its general remedy.
func gist(err error) string {
	text, _, _ := strings.Cut(firstLine(err), ": use ")
	return text
}

// previous goes back to the pause before the last.
func (w *workspace) previous(ctx context.Context, c clock) error {
	w.abandon()
	numbers, err := w.pauses()
	if err != nil {
		return err
	}
	if len(numbers) < 2 {
		return dayfly.Errorf(dayfly.NotFound, "workspace %s has no pause before its last one: that is kept only until the last one has been resumed", w.id)
	}
	key, err := w.key(ctx)
	if err != nil {
		return err
	}
	from, err := openOrigin(filepath.Join(w.dir, pausesDir, strconv.Itoa(numbers[len(numbers)-2])), key)
	if err != nil {
		return err
	}
	defer from.close()
	from.kind, from.identity = dayfly.Resume, wire.IdentitySame
	return w.rollback(ctx, c, from)
}

// openOrigin opens a generation. It takes over the key.
func openOrigin(dir string, key *keyring.Key) (*origin, error) {
	gen, err := snapshot.Open(dir, key)
	if err != nil {
		key.Clear()
		return nil, err
	}
	m := gen.Manifest()
	o := &origin{gen: gen, key: key, made: m.Machine}
	for i := range m.Disks {
		o.layers = append([]string{gen.DiskPath(i)}, o.layers...)
	}
	return o, nil
}

// rollback puts the workspace back in place. What it was is lost, though not
// before all that can be known of the snapshot is known to be good.
func (w *workspace) rollback(ctx context.Context, c clock, from *origin) error {
	if w.state() == dayfly.Running {
		if err := w.mayGoBack(ctx, from); err != nil {
			return staged("saved", err)
		}
		if err := w.become(dayfly.Failed, func(ws *dayfly.Workspace) {
			ws.Reason, ws.Spec.Keep = "a rollback was not finished: roll back again", true
		}); err != nil {
			return staged("record", err)
		}
		if err := w.teardown(); err != nil {
			return err
		}
	}
	if err := w.start(ctx, c, from); err != nil {
		return err
	}
	if err := errors.Join(dropChain(w.dir), w.dropPauses(math.MaxInt)); err != nil { // of a time that is no more
		w.node.Log.Error("removal of what was before a rollback", "workspace", w.id, "err", err)
	}
	return nil
}

// mayGoBack says whether a running workspace could go on from there.
func (w *workspace) mayGoBack(ctx context.Context, from *origin) error {
	ws := *w.view.Load()
	s := &start{w: w, ws: &ws, origin: from}
	defer s.forget()
	if err := s.kernel(ctx); err != nil {
		return err
	}
	if err := s.saved(ctx); err != nil {
		return err
	}
	return from.gen.LoadRAM(ctx, nowhere{})
}

// nowhere takes what is only to be authenticated.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
