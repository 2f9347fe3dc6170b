package boot

import (
	"context"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// steps is what makes an empty VM a workspace, in order. Each row's name is a
// sub-stage of the timeline, and an error carries it.
var steps = []struct {
	name string
	do   func(*root, context.Context, *wire.Init) error
}{
	{"clock", (*root).setClock},
	{"entropy", (*root).addEntropy},
	{"crypt", (*root).openDisk},
	{"disk", (*root).mountDisk},
	{"root", (*root).mountRoot},
	{"identity", (*root).setIdentity},
	{"overlay", (*root).mountOverlay},
	{"enter", (*root).enterRoot},
}

// Init carries out in once. Repeated, it renews only what may be renewed: the
// clock and the kernel's entropy. An error leaves the VM unusable: the caller
// reports it and the host throws the machine away.
func (s *System) Init(ctx context.Context, in wire.Init) (wire.InitReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer clearKey(&in)
	if s.done != nil {
		return s.initAgain(ctx, &in)
	}
	watch := s.sinceArrival()
	r := &root{sys: s, crypt: cryptDev, arrived: watch.began}
	if err := r.build(ctx, &in, watch); err != nil {
		return wire.InitReply{}, err
	}
	if in.Restored {
		if err := watch.time("boot-id", s.renewBootID); err != nil {
			return wire.InitReply{}, err
		}
	}
	s.disk = r.disk
	s.done = &wire.InitReply{Kernel: r.kernel, Timeline: watch.line, Confirmed: r.confirmed}
	s.inited.Store(true)
	return *s.done, nil
}

func (s *System) initAgain(ctx context.Context, in *wire.Init) (wire.InitReply, error) {
	r := &root{sys: s, arrived: s.arrived()}
	if err := r.setClock(ctx, in); err != nil {
		return wire.InitReply{}, fmt.Errorf("clock: %w", err)
	}
	if err := r.addEntropy(ctx, in); err != nil {
		return wire.InitReply{}, fmt.Errorf("entropy: %w", err)
	}
	reply := *s.done
	for _, c := range s.done.Confirmed {
		if c.Name != wire.StepClock && c.Name != wire.StepEntropy {
			r.confirm(c.Name, c.Value)
		}
	}
	reply.Confirmed = r.confirmed
	return reply, nil
}

// build works through the steps.
func (r *root) build(ctx context.Context, in *wire.Init, watch *stopwatch) error {
	for _, st := range steps {
		if err := watch.time(st.name, func() error { return st.do(r, ctx, in) }); err != nil {
			return err
		}
	}
	return nil
}

func clearKey(in *wire.Init) {
	if in.Root != nil {
		clear(in.Root.DiskKey)
	}
}

// stopwatch notes how long each step takes.
type stopwatch struct {
	began time.Time
	line  dayfly.Timeline
}

func start() *stopwatch { return &stopwatch{began: time.Now()} }

// arrived is when what the host asks for now came, as far as is known: an emulated
// machine takes long to understand its first message.
func (s *System) arrived() time.Time {
	if sessions := s.sessions.Load(); sessions != nil {
		return sessions.Heard()
	}
	return time.Now()
}

// sinceArrival is a stopwatch that has run since then.
func (s *System) sinceArrival() *stopwatch {
	w := &stopwatch{began: s.arrived()}
	w.line = dayfly.Timeline{{Name: "message", Took: ms(time.Since(w.began))}}
	return w
}

// time carries out a step. An error gets its name.
func (w *stopwatch) time(name string, do func() error) error {
	at := time.Since(w.began)
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.line = append(w.line, dayfly.Stage{Name: name, At: ms(at), Took: ms(time.Since(w.began) - at)})
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
