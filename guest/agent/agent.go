// Package agent is the in-guest API: processes and files of a workspace, served
// as an http.Handler that E2B's clients and our own speak to (see
// docs/formats/guest.md).
//
// It works on the file system and the accounts it finds itself in, acts as
// root on behalf of the users it is asked for, and starts processes as those
// users. What a host alone may ask (a root file system to open, a clock to set,
// power off) it hands to the callbacks of its Config: package guest/boot knows
// how. Listening, and refusing the host's routes to others, is its caller's job.
//
// Always true: a process's listeners get all of its output before its end; an
// exit is kept for a while for whoever asks late; a client's signal never
// reaches a pid that was reused; every size that comes from outside is bounded
// by a constant.
package agent

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Config is what an Agent needs from the program it is part of. The zero value
// works.
type Config struct {
	Log     *slog.Logger // nil: nothing is logged
	Version string       // of the agent, for /health

	// Reaper collects children. A process that adopts orphans (pid 1, or a
	// subreaper) must give one; nil waits for each child on its own.
	Reaper *Reaper

	// PreStart may change how a process is started, such as the cgroup it is
	// put into, or refuse it. done is called when the process has been started,
	// or could not be. It may be called from many goroutines.
	PreStart func(*syscall.SysProcAttr) (done func(), err error)

	// OnInit carries out the host's part of an Init: the clock, entropy, host
	// name, and the root file system. Root is set until one call succeeded with
	// it. Calls come one at a time. A *dayfly.Error reaches the host as it is.
	OnInit func(context.Context, wire.Init) (wire.InitReply, error)

	// OnPoweroff ends the machine. Nil: the request is refused.
	OnPoweroff func(context.Context) error

	// Copier pauses and renews the machine. Nil: the requests are refused.
	Copier Copier
}

// Agent serves the in-guest API. Make one with New; Close it.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	accounts accounts
	state    atomic.Pointer[state]
	oomScore oomScore

	initTurn chan struct{} // holds one token: whoever has it may carry out an Init
	rooted   bool          // an Init with a Root succeeded; guarded by initTurn

	procs    processTable
	watchers watcherTable
	cpu      cpuMeter

	closing   chan struct{} // closed by Close: what no request owns ends
	closeOnce sync.Once
	tasks     sync.WaitGroup // everything that outlives a request
}

// state is what Init sets. A state never changes: Init replaces it whole.
type state struct {
	token   string
	id      string
	env     map[string]string
	user    string
	workdir string
	image   dayfly.ImageConfig
}

// New makes an agent. It starts nothing.
func New(cfg Config) *Agent {
	a := &Agent{cfg: cfg, log: cfg.Log, initTurn: make(chan struct{}, 1), closing: make(chan struct{})}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.cfg.Reaper == nil {
		a.cfg.Reaper = new(Reaper)
	}
	a.state.Store(&state{})
	return a
}

// Handler returns the API. It may be served by any number of servers.
func (a *Agent) Handler() http.Handler { return http.HandlerFunc(a.serve) }

// Close kills every process the agent started, with its process group, ends
// all watches, and waits for everything it started itself. Requests under way
// end by themselves, soon. Close may be called twice.
func (a *Agent) Close() error {
	a.closeOnce.Do(func() { close(a.closing) })
	a.procs.close()
	a.watchers.close()
	a.tasks.Wait()
	return nil
}
