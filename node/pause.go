package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// A paused workspace is a generation in its directory: pauses/1, pauses/2, …
// The one before stays until the next has been resumed once.
const pausesDir = "pauses"

// pausing is a pause under way.
type pausing struct {
	w    *workspace
	dir  string // of the generation
	gen  *snapshot.Writer
	ws   dayfly.Workspace // what it will be
	back undo.Stack
}

// pauseSteps make a running workspace a paused one. The workspace goes on if one
// fails; after "record" it is paused whatever happens, also if this process dies.
var pauseSteps = []struct {
	name string
	do   func(*pausing, context.Context) error
}{
	{"open", (*pausing).open},
	{"freeze", (*pausing).freeze},
	{"pause", (*pausing).pause},
	{"state", (*pausing).state},
	{"memory", (*pausing).memory},
	{"disk", (*pausing).disk},
	{"commit", (*pausing).commit},
	{"record", (*pausing).record},
}

// pause saves the workspace and ends its machine. When it has returned, memory
// and disk are on the medium.
func (w *workspace) pause(ctx context.Context) error {
	state := w.state()
	if state == dayfly.Paused {
		return nil
	}
	if state != dayfly.Running {
		return dayfly.Errorf(dayfly.Conflict, "workspace %s is %s%s: only a running one can be paused", w.id, state, because(w.view.Load().Reason))
	}
	if err := w.settled(); err != nil {
		return err
	}
	if err := w.standStill(ctx); err != nil {
		return staged("open", err)
	}
	p := &pausing{w: w}
	for _, step := range pauseSteps {
		err := context.Cause(ctx)
		if err == nil {
			err = step.do(p, ctx)
		}
		if err != nil {
			if undone := p.back.Run(ctx); undone != nil {
				w.node.Log.Error("undo of a pause", "workspace", w.id, "stage", step.name, "err", undone)
			}
			return staged(step.name, err)
		}
		w.node.Log.Debug("stage done", "workspace", w.id, "of", "pause", "stage", step.name)
	}
	p.back.Keep()
	w.show(p.ws)
	w.node.Log.Info("workspace state", "workspace", w.id, "state", p.ws.State)
	return w.teardown()
}

func (p *pausing) open(ctx context.Context) error {
	if err := dropChain(p.w.dir); err != nil { // which would be taken for this one's disk
		return fmt.Errorf("node: disk: %w", err)
	}
	layers, err := chain(p.w.dir)
	if err != nil {
		return err
	}
	if err := mayRaise(layers); err != nil { // which resuming it will
		return err
	}
	last, err := p.w.lastPause()
	if err != nil {
		return err
	}
	parent := filepath.Join(p.w.dir, pausesDir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return noSpace(err)
	}
	p.dir = filepath.Join(parent, strconv.Itoa(last+1))
	key, err := p.w.key(ctx)
	if err != nil {
		return err
	}
	defer key.Clear()
	if p.gen, err = snapshot.Create(p.dir, key); err != nil {
		return err
	}
	p.back.Push("generation", func(context.Context) error { return p.gen.Abort() })
	return nil
}

func (p *pausing) freeze(ctx context.Context) error {
	p.back.Push("thaw", p.w.thaw) // also after an error: the answer may have got lost
	return p.w.freeze(ctx)
}

func (p *pausing) pause(ctx context.Context) error {
	p.back.Push("resume", p.w.parts.machine.Resume) // also after an error, as above
	return p.w.parts.machine.Pause(ctx)
}

func (p *pausing) state(ctx context.Context) error {
	state, err := p.w.save(ctx)
	if err != nil {
		return err
	}
	defer clear(state)
	return p.gen.State(ctx, state)
}

func (p *pausing) memory(ctx context.Context) error {
	ram, err := p.w.parts.machine.RAM(ctx)
	if err != nil {
		return err
	}
	pages, err := ram.Touched(ctx)
	if err != nil {
		return err
	}
	return p.gen.RAM(ctx, ram, ram.Size(), extents(pages))
}

func (p *pausing) disk(ctx context.Context) error {
	layers, err := chain(p.w.dir)
	if err != nil {
		return err
	}
	return addLayers(ctx, p.gen, layers)
}

func (p *pausing) commit(ctx context.Context) error {
	meta, err := metaOf(string(p.w.id)+"-"+filepath.Base(p.dir), p.w.parts.made, generationConfig{Workspace: *p.w.view.Load()})
	if err != nil {
		return err
	}
	if _, err = p.gen.Commit(ctx, meta); err != nil {
		return err
	}
	p.back.Push("committed", func(context.Context) error { return snapshot.Remove(p.dir) })
	return nil
}

// record says durably that the workspace is paused.
func (p *pausing) record(context.Context) error {
	was := *p.w.view.Load()
	p.ws = was
	p.ws.State, p.ws.Reason, p.ws.Spec.Keep = dayfly.Paused, "", true // whoever pauses a workspace wants it back
	p.back.Push("record", func(context.Context) error { return p.w.record(was).write(p.w.dir) })
	if err := p.w.record(p.ws).write(p.w.dir); err != nil {
		return noSpace(err)
	}
	return noSpace(syncAll(p.w.dir))
}

// generationConfig is what a generation says of its workspace: Config in its
// manifest.
type generationConfig struct {
	Version   int              `json:"version"`
	Workspace dayfly.Workspace `json:"workspace"`
	Name      string           `json:"name,omitempty"`      // of a snapshot
	PausedMS  float64          `json:"paused_ms,omitempty"` // how long the workspace stood still for it
}

// configVersion is that of generationConfig; docs/formats/snapshot.md.
const configVersion = 1

func metaOf(id string, made snapshot.Machine, c generationConfig) (snapshot.Meta, error) {
	c.Version = configVersion
	c.Workspace.Timeline = nil
	b, err := json.Marshal(c)
	if err != nil {
		return snapshot.Meta{}, err
	}
	return snapshot.Meta{ID: id, CreatedAt: now(), Machine: made, Config: b}, nil
}

func configOf(m snapshot.Manifest) (generationConfig, error) {
	var c generationConfig
	if err := json.Unmarshal(m.Config, &c); err != nil {
		return c, fmt.Errorf("node: generation: %w", err)
	}
	if c.Version != configVersion {
		return c, dayfly.Errorf(dayfly.Unavailable, "the snapshot was made by another release (version %d, this one knows %d): use that release", c.Version, configVersion)
	}
	return c, nil
}

func extents(pages []vmm.Extent) []snapshot.Extent {
	list := make([]snapshot.Extent, len(pages))
	for i, e := range pages {
		list[i] = snapshot.Extent(e)
	}
	return list
}

// lastPause returns the number of the latest committed generation, or 0.
func (w *workspace) lastPause() (int, error) {
	numbers, err := w.pauses()
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	return numbers[len(numbers)-1], nil
}

// pauses lists the numbers of the workspace's generations, ascending.
func (w *workspace) pauses() ([]int, error) {
	var numbers []int
	ents, err := os.ReadDir(filepath.Join(w.dir, pausesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("node: pauses: %w", err)
	}
	for _, e := range ents {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// dropPauses removes the generations before the given one.
func (w *workspace) dropPauses(before int) error {
	numbers, err := w.pauses()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range numbers {
		if n < before {
			errs = append(errs, snapshot.Remove(filepath.Join(w.dir, pausesDir, strconv.Itoa(n))))
		}
	}
	return errors.Join(errs...)
}

// key loads the workspace's key. The caller clears it.
func (w *workspace) key(ctx context.Context) (*keyring.Key, error) {
	return w.node.Keys.Load(ctx, filepath.Join(w.dir, keyFile), string(w.id))
}

// freezeDeadline bounds how long a guest may take to stop or let go of its processes.
const freezeDeadline = 10 * time.Second

// freeze stops a workspace's processes: in every copy they are to stand still
// until it has become one of its own.
func freeze(ctx context.Context, session *guest.Session) error {
	return call(ctx, "stop its processes", func(ctx context.Context) error {
		_, err := session.Freeze(ctx)
		return err
	})
}

func thaw(ctx context.Context, session *guest.Session) error {
	return call(ctx, "let its processes go on", session.Thaw)
}

// call asks a guest's agent for something, with a deadline, and gives its
// failure a meaning.
func call(ctx context.Context, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freezeDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not %s within %s", what, freezeDeadline))
	defer cancel()
	err := do(ctx)
	var no *guest.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no):
		return dayfly.Errorf(dayfly.Unavailable, "the guest could not %s: %q", what, no.Said)
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	}
	return err
}
