package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/snapshot"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm"
)

// photo is a running workspace at one instant: the state of its machine and its
// RAM in memory, its disk as layers that nobody writes any more, or as a copy. The workspace
// goes on beside it.
type photo struct {
	of     dayfly.Workspace
	made   snapshot.Machine
	key    *keyring.Key
	state  []byte
	memory *os.File      // the RAM: a file without a name
	pages  []vmm.Extent  // of it, that may be other than zero
	home   *scratch      // has the layers of the disk
	stood  time.Duration // how long the workspace stood still
}

// close lets go of all of it. Machines that began as the memory keep it.
func (p *photo) close() error {
	clear(p.state)
	p.key.Clear()
	_ = p.memory.Close()
	return p.home.remove()
}

// discard closes a photo that has served. What cannot be removed of it goes with the
// next sweep.
func (n *Node) discard(p *photo) {
	if err := p.close(); err != nil {
		n.Log.Error("removal of a photo", "workspace", p.of.ID, "err", err)
	}
}

// sitting is a photo being taken.
type sitting struct {
	w    *workspace
	p    *photo
	ram  *vmm.RAM
	view []byte // the photo's memory, mapped
	back undo.Stack

	began time.Time // of the standing still
}

// poses are the steps of taking a photo. From "freeze" to "thaw" the workspace
// stands still: what can be done before or after is.
var poses = []struct {
	name string
	do   func(*sitting, context.Context) error
}{
	{"prepare", (*sitting).prepare},
	{"freeze", (*sitting).freeze},
	{"pause", (*sitting).pause},
	{"state", (*sitting).state},
	{"memory", (*sitting).memory},
	{"layer", (*sitting).layerOrCopy},
	{"go on", (*sitting).goOn},
}

// photograph takes a photo of a running workspace. On error the workspace goes
// on and nothing is left.
func (w *workspace) photograph(ctx context.Context) (_ *photo, err error) {
	ws := *w.view.Load()
	if ws.State != dayfly.Running {
		return nil, notRunning(ws)
	}
	if err := w.settled(); err != nil {
		return nil, err
	}
	if err := w.standStill(ctx); err != nil {
		return nil, staged("prepare", err)
	}
	defer w.mergeAfterPush()
	s := &sitting{w: w, p: &photo{of: ws, made: w.parts.made}}
	for _, pose := range poses {
		if err = context.Cause(ctx); err == nil {
			err = pose.do(s, ctx)
		}
		if err != nil {
			if undone := s.back.Run(ctx); undone != nil {
				w.node.Log.Error("undo of a snapshot", "workspace", w.id, "stage", pose.name, "err", undone)
			}
			return nil, staged(pose.name, err)
		}
		w.node.Log.Debug("stage done", "workspace", w.id, "of", "photo", "stage", pose.name)
	}
	s.back.Keep()
	_ = unix.Munmap(s.view)
	w.node.Log.Info("workspace photographed", "workspace", w.id, "stood_still", s.p.stood)
	return s.p, nil
}

// prepare makes room for all that will be copied, so that copying is all that
// the workspace waits for.
func (s *sitting) prepare(ctx context.Context) (err error) {
	layers, err := chain(s.w.dir)
	if err != nil {
		return err
	}
	if err := mayRaise(layers); err != nil {
		return err
	}
	if s.p.key, err = s.w.key(ctx); err != nil {
		return err
	}
	s.back.Push("key", func(context.Context) error { s.p.key.Clear(); return nil })
	if s.p.home, err = s.w.node.newScratch(); err != nil {
		return err
	}
	s.back.Push("home", func(context.Context) error { return s.p.home.remove() })
	if s.ram, err = s.w.parts.machine.RAM(ctx); err != nil {
		return err
	}
	if s.p.memory, err = newMemory(s.ram.Size()); err != nil {
		return err
	}
	s.back.Push("memory", func(context.Context) error { return s.p.memory.Close() })
	s.view, err = unix.Mmap(int(s.p.memory.Fd()), 0, int(s.ram.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("node: memory: %w", err)
	}
	s.back.Push("view", func(context.Context) error { return unix.Munmap(s.view) })
	pages, err := s.ram.Touched(ctx)
	if err != nil {
		return err
	}
	for _, e := range pages {
		// Only to be faster: an old kernel does not know it.
		_ = unix.Madvise(s.view[e.Off:e.Off+e.Len], unix.MADV_POPULATE_WRITE)
	}
	return nil
}

// freeze stops the processes: in every copy they are to stand still until it
// has become one of its own.
func (s *sitting) freeze(ctx context.Context) error {
	s.began = time.Now()
	s.back.Push("thaw", s.w.thaw) // also after an error: the answer may have got lost
	return s.w.freeze(ctx)
}

func (s *sitting) pause(ctx context.Context) error {
	s.back.Push("resume", s.w.parts.machine.Resume) // also after an error, as above
	return s.w.parts.machine.Pause(ctx)
}

func (s *sitting) state(ctx context.Context) (err error) {
	s.p.state, err = s.w.save(ctx)
	return err
}

func (s *sitting) memory(ctx context.Context) (err error) {
	if s.p.pages, err = s.ram.Touched(ctx); err != nil {
		return err
	}
	return s.ram.Copy(ctx, s.view, s.p.pages)
}

// layer lets the guest write elsewhere from now on and links what it wrote. If
// that is nothing, as with a layer that an earlier photo left when it failed, it
// may stay where it is.
func (s *sitting) layer(ctx context.Context) error {
	layers, err := chain(s.w.dir)
	if err != nil {
		return err
	}
	if unused, err := unusedTop(layers); err != nil || unused {
		return errors.Join(err, linkChain(s.p.home.dir, layers[1:]))
	}
	if err := linkChain(s.p.home.dir, layers); err != nil {
		return err
	}
	if err := s.w.parts.machine.PushLayer(ctx, writable, nextLayer(s.w.dir, layers)); err != nil {
		return noSpace(err)
	}
	return syncPath(s.w.dir) // what the guest syncs from now on is in the new layer
}

// goOn ends the standing still.
func (s *sitting) goOn(ctx context.Context) error {
	if err := s.w.parts.machine.Resume(ctx); err != nil {
		return err
	}
	s.back.Drop("resume")
	if err := s.w.thaw(ctx); err != nil {
		return err
	}
	s.back.Drop("thaw")
	s.p.stood = time.Since(s.began)
	return nil
}

// The numbers of a workspace's root and disk among its machine's drives.
const (
	readable = 0
	writable = 1
)

// newMemory makes a file of size bytes that has no name and is on no disk.
func newMemory(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("dayfly-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("node: memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("node: memory: %w", err)
	}
	return f, nil
}
