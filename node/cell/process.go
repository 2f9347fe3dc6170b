package cell

import (
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/vmm"
)

var _ vmm.Furnished = (*process)(nil)

// process is a VMM in a jail. It is a vmm.Process, and Furnished.
type process struct {
	jail *jail.Jail
	proc *jail.Process

	done  chan struct{} // closed when the process and its jail are gone
	err   error         // valid once done is closed, as state
	state *os.ProcessState

	once sync.Once
	left chan struct{} // closed when the process is to be left alone
	over chan struct{} // closed when nobody watches any more
}

// watch sees to the jail when the process ends, or when it is left.
func (p *process) watch(log *slog.Logger) {
	defer close(p.over)
	select {
	case <-p.proc.Done():
		p.bury(log)
	case <-p.left:
		select {
		case <-p.proc.Done():
			p.bury(log)
		default:
			if err := p.jail.Detach(); err != nil {
				log.Error("a jail is not let go of", "pid", p.PID(), "err", err)
			}
		}
	}
}

// bury notes how the process ended and removes its jail.
func (p *process) bury(log *slog.Logger) {
	exit := p.proc.Exit()
	p.err, p.state = exit.Err(), exit.State
	if p.err != nil && exit.Forbidden == "" && p.jail.OutOfMemory() {
		p.err = errors.New("killed, as it needed more memory than it may have: more than the guest's own is for the VMM to work with, so the VMM has a fault or was taken over")
	}
	if err := p.jail.Close(); err != nil {
		log.Error("a jail is not removed", "pid", p.PID(), "err", err)
	}
	close(p.done)
}

// PID is its id on the host.
func (p *process) PID() int { return p.proc.PID() }

// Done is closed when it is gone.
func (p *process) Done() <-chan struct{} { return p.done }

// Err says how it ended.
func (p *process) Err() error { return p.err }

// State is its exit status; nil of an adopted one.
func (p *process) State() *os.ProcessState { return p.state }

// Kill ends it.
func (p *process) Kill() { p.proc.Kill() }

// Leave lets it go on alone.
func (p *process) Leave() {
	p.once.Do(func() { close(p.left) })
	<-p.over
}

// Bring shows it a file.
func (p *process) Bring(f vmm.Path) error { return p.jail.Bring(file(f)) }

// Shift moves what it was shown.
func (p *process) Shift(from, to string) error { return p.jail.Shift(from, to) }

// Drop takes away what it was shown.
func (p *process) Drop(at string) error { return p.jail.Drop(at) }

// Look opens what it sees.
func (p *process) Look(name string) (*os.File, error) { return p.jail.Look(name) }
