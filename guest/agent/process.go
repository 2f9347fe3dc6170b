package agent

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// Bounds on what is remembered of processes.
const (
	exitKept     = 60 * time.Second // an exit, for a Connect that comes late
	maxExited    = 1024
	maxProcesses = 16 << 10 // running at once, below the kernel's default of 32768 pids
)

// process is one process a client started.
type process struct {
	config  wire.ProcessConfig
	tag     *string
	child   *Child
	input   *input
	outputs []*output
	readers atomic.Int32    // outputs that have not ended
	eof     chan struct{}   // closed when every output has ended
	quit    <-chan struct{} // closed when the agent closes
	out     broadcast

	timer    *time.Timer // ends the process's life; nil: unlimited
	timedOut atomic.Bool

	done    chan struct{} // closed when end is set and all output was passed on
	end     []byte        // the envelope of the end event
	endedAt time.Time
}

// processTable is the running processes and the recently ended ones.
type processTable struct {
	mu      sync.Mutex
	running map[int]*process
	exited  []*process // oldest first
	closed  bool
}

// start starts a process. Its first listener is attached before it runs, so
// that no output is missed. lifetime below zero is unlimited.
func (a *Agent) start(l *launch, req *wire.StartRequest, lifetime time.Duration) (*process, *listener, error) {
	if err := a.procs.admit(&a.tasks); err != nil {
		return nil, nil, err
	}
	defer a.tasks.Done()
	io, err := l.open(req)
	if err != nil {
		return nil, nil, err
	}
	p := &process{tag: req.Tag, eof: make(chan struct{}), done: make(chan struct{}), quit: a.closing}
	if req.Process != nil {
		p.config = *req.Process
	}
	first := p.out.attach()
	p.child, err = a.spawn(l, io, req.PTY != nil)
	if err != nil {
		io.close()
		return nil, nil, err
	}
	io.release()
	p.input = newInput(io.input, req.PTY != nil)
	for _, s := range io.output {
		p.outputs = append(p.outputs, &output{source: s})
	}
	if !a.procs.add(p) {
		_ = p.signal(syscall.SIGKILL) // Close came in between; the process still ends in order
	}
	a.run(p, lifetime)
	return p, first, nil
}

// run starts what accompanies a process to its end.
func (a *Agent) run(p *process, lifetime time.Duration) {
	if lifetime >= 0 {
		p.timer = time.AfterFunc(lifetime, func() {
			p.timedOut.Store(true)
			_ = p.signal(syscall.SIGKILL) // ended just now: as well
		})
	}
	p.readers.Store(int32(len(p.outputs)))
	for _, o := range p.outputs {
		a.tasks.Go(func() { p.pump(o) })
	}
	a.tasks.Go(func() { a.accompany(p) })
}

// accompany sees a process through its end.
func (a *Agent) accompany(p *process) {
	exit := p.child.Exit()
	if p.timer != nil {
		p.timer.Stop()
	}
	if !p.input.pty {
		p.input.close()
	}
	p.drain()
	p.end, _ = wire.AppendMessage(nil, wire.EventResponse{Event: wire.ProcessEvent{End: endEvent(exit.Status)}}) // cannot fail
	p.endedAt = time.Now()
	a.procs.retire(p)
	p.out.mu.Lock()
	p.out.over = true
	p.out.mu.Unlock()
	close(p.done)

	// Processes it left behind may go on writing, to nobody, until Close.
	select {
	case <-p.eof:
	case <-a.closing:
		_ = syscall.Kill(-p.child.PID(), syscall.SIGKILL) // its group; the number is taken while a member lives
	}
	for _, o := range p.outputs {
		o.file.Close()
	}
	p.input.close()
}

// endEvent words an exit as E2B does.
func endEvent(ws syscall.WaitStatus) *wire.EndEvent {
	end := &wire.EndEvent{Exited: ws.Exited(), ExitCode: int32(ws.ExitStatus())}
	switch {
	case ws.Signaled():
		end.Status = "signal: " + ws.Signal().String()
		if ws.CoreDump() {
			end.Status += " (core dumped)"
		}
	default:
		end.Status = "exit status " + itoa(ws.ExitStatus())
	}
	if ws.Signaled() || ws.ExitStatus() != 0 {
		end.Error = &end.Status
	}
	return end
}

// signal signals the process and its group.
func (p *process) signal(sig syscall.Signal) error { return p.child.SignalGroup(sig) }

// admit refuses a process too many, and else keeps Close waiting by adding to
// its tasks: the caller calls Done.
func (t *processTable) admit(tasks *sync.WaitGroup) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return wire.Errorf(wire.Unavailable, "the agent is shutting down")
	}
	if len(t.running) >= maxProcesses {
		return wire.Errorf(wire.ResourceExhausted, "%d processes run already, the most there may be: end some", maxProcesses)
	}
	tasks.Add(1)
	return nil
}

// add registers a process. It returns false when the table is closed.
func (t *processTable) add(p *process) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running == nil {
		t.running = make(map[int]*process)
	}
	t.running[p.child.PID()] = p
	return !t.closed
}

// retire moves a process from the running to the ended ones.
func (t *processTable) retire(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running[p.child.PID()] == p {
		delete(t.running, p.child.PID())
	}
	t.forget()
	t.exited = append(t.exited, p)
}

// forget drops ended processes that are too old or too many.
func (t *processTable) forget() {
	n := max(0, len(t.exited)-maxExited+1)
	for n < len(t.exited) && time.Since(t.exited[n].endedAt) > exitKept {
		n++
	}
	t.exited = slices.Delete(t.exited, 0, n)
}

// forgetExited drops all ended processes.
func (t *processTable) forgetExited() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.exited = nil
}

// find returns a running process or, where late is set, one that ended not
// long ago.
func (t *processTable) find(sel *wire.ProcessSelector, late bool) (*process, error) {
	if sel == nil || sel.PID == 0 && sel.Tag == "" {
		return nil, wire.Errorf(wire.InvalidArgument, "process: name one by pid or tag")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.running[int(sel.PID)]; p != nil {
		return p, nil
	}
	for _, p := range t.running {
		if p.is(sel) {
			return p, nil
		}
	}
	t.forget()
	for _, p := range slices.Backward(t.exited) {
		if late && p.is(sel) {
			return p, nil
		}
	}
	if sel.PID != 0 {
		return nil, wire.Errorf(wire.NotFound, "process with pid %d not found", sel.PID)
	}
	return nil, wire.Errorf(wire.NotFound, "process with tag %q not found", sel.Tag)
}

func (p *process) is(sel *wire.ProcessSelector) bool {
	if sel.PID != 0 {
		return p.child.PID() == int(sel.PID)
	}
	return p.tag != nil && *p.tag == sel.Tag
}

// list returns the running processes by pid.
func (t *processTable) list() []wire.ProcessInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []wire.ProcessInfo
	for pid, p := range t.running {
		out = append(out, wire.ProcessInfo{Config: p.config, PID: uint32(pid), Tag: p.tag})
	}
	slices.SortFunc(out, func(x, y wire.ProcessInfo) int { return cmp.Compare(x.PID, y.PID) })
	return out
}

// close kills every process and admits no more.
func (t *processTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, p := range t.running {
		_ = p.signal(syscall.SIGKILL) // ended already: as well
	}
}

// input is what clients write to a process.
type input struct {
	turn chan struct{} // holds one token: whoever has it may write
	file *os.File      // nil: the process reads /dev/null
	pty  bool
	once sync.Once
}

func newInput(file *os.File, pty bool) *input {
	return &input{turn: make(chan struct{}, 1), file: file, pty: pty}
}

// close ends the input. A write under way ends with an error.
func (in *input) close() {
	if in.file != nil {
		in.once.Do(func() { in.file.Close() })
	}
}
