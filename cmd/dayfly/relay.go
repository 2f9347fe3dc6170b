package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/guest/wire"
)

// twice is how soon a second Ctrl-C must follow the first to mean it.
const twice = time.Second

// relay is what becomes of the signals this process gets while it runs a
// command. Before the command has started they cancel, and those that are
// messages wait for it. Then they are passed on, and a second one soon after
// cancels. Once cancelled, a third ends the process on the spot.
type relay struct {
	ch     chan os.Signal
	cancel context.CancelCauseFunc
	tty    *terminal // nil: none
	end    func(code int)

	mu        sync.Mutex
	process   *client.Process
	early     []syscall.Signal // messages to a process that has not started
	last      time.Time
	cancelled int
}

// notify returns a channel of the signals that are not ignored: a caller that
// ignores one, as nohup does, wants it ignored.
func notify(signals ...os.Signal) chan os.Signal {
	ch := make(chan os.Signal, 16) // more than a person can press while one is passed on
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(ch, s)
		}
	}
	return ch
}

// newRelay takes over the signals of the process until Close.
func newRelay(cancel context.CancelCauseFunc, tty *terminal) *relay {
	r := &relay{
		ch: notify(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
			syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
			syscall.SIGPIPE), // so that a closed output is the error of a write, not the end of us
		cancel: cancel, tty: tty, end: os.Exit,
	}
	go func() {
		for s := range r.ch {
			r.take(s.(syscall.Signal))
		}
	}()
	return r
}

// Close gives the signals back.
func (r *relay) Close() {
	signal.Stop(r.ch)
	close(r.ch)
}

// to makes p the receiver of signals from now on.
func (r *relay) to(p *client.Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process = p
	for _, s := range r.early {
		r.pass(s)
	}
	r.early = nil
}

func (r *relay) take(s syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch s {
	case syscall.SIGPIPE:
		return
	case syscall.SIGWINCH:
		r.resize()
		return
	case syscall.SIGUSR1, syscall.SIGUSR2:
		if r.process == nil {
			if !slices.Contains(r.early, s) { // as the kernel keeps one of each
				r.early = append(r.early, s)
			}
			return
		}
		r.pass(s)
		return
	}
	again := s == syscall.SIGINT && time.Since(r.last) < twice
	if s == syscall.SIGINT {
		r.last = time.Now()
	}
	switch {
	case r.cancelled > 0:
		if r.cancelled++; r.cancelled > 2 {
			r.tty.Close()
			r.end(exitSignalled + int(s))
		}
	case r.process == nil || again:
		r.cancelled = 1
		r.cancel(interrupted{s})
	default:
		r.pass(s)
	}
}

// pass sends a signal on without waiting: the guest may take its time, and
// what it does not take is lost as signals are.
func (r *relay) pass(s syscall.Signal) {
	if p := r.process; p != nil {
		go func() { _ = p.Signal(context.Background(), wire.Signal(s)) }()
	}
}

func (r *relay) resize() {
	if p := r.process; p != nil && r.tty != nil {
		go func() { _ = p.Resize(context.Background(), r.tty.Size()) }()
	}
}

// killTimeout bounds the delivery of the last signal to a command.
const killTimeout = 5 * time.Second

// kill ends the command and waits until the guest was told.
func (r *relay) kill() {
	r.mu.Lock()
	p := r.process
	r.mu.Unlock()
	if p != nil {
		ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
		defer cancel()
		_ = p.Signal(ctx, wire.SIGKILL)
	}
}
