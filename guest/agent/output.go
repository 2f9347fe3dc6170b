package agent

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

const (
	chunkSize     = 32 << 10 // bytes read from a process at once; half a pipe
	listenerQueue = 16       // chunks that may wait for a listener before the process has to
)

// How long output is waited for after a process has ended while something else
// still holds its pipes: processes it left behind, which may be about to write
// the end of what their parent was asked for, or may be servers.
const (
	drainQuiet = 250 * time.Millisecond // without output: it is over
	drainMax   = 5 * time.Second        // with output that the process itself did not write
	drainStep  = 25 * time.Millisecond
)

// output is one stream a process writes, being read.
type output struct {
	source
	idleSince atomic.Int64 // unix nanoseconds; 0 while a chunk is on its way to the listeners
	read      atomic.Int64 // bytes
	passedOn  atomic.Int64 // bytes
	eof       atomic.Bool
}

// listener is one stream to one client. While it is attached it gets every
// chunk, and the process waits for it: nothing is lost and nothing piles up.
type listener struct {
	frames chan []byte   // envelopes, shared between listeners
	gone   chan struct{} // closed when nobody reads frames any more
}

// broadcast is the listeners of a process.
type broadcast struct {
	mu        sync.Mutex
	listeners []*listener // replaced, never changed
	over      bool        // the end event is out: what comes now is dropped
}

func (b *broadcast) attach() *listener {
	l := &listener{frames: make(chan []byte, listenerQueue), gone: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners = append(b.listeners[:len(b.listeners):len(b.listeners)], l)
	return l
}

func (b *broadcast) detach(l *listener) {
	close(l.gone)
	b.mu.Lock()
	defer b.mu.Unlock()
	var rest []*listener
	for _, other := range b.listeners {
		if other != l {
			rest = append(rest, other)
		}
	}
	b.listeners = rest
}

func (b *broadcast) current() []*listener {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil
	}
	return b.listeners
}

// pump reads a stream to its end. With nobody listening, what is read is
// dropped: a process never stops because its client went away.
func (p *process) pump(o *output) {
	buf := make([]byte, chunkSize)
	for {
		o.idleSince.Store(time.Now().UnixNano())
		n, err := o.file.Read(buf)
		o.idleSince.Store(0)
		if n > 0 {
			o.read.Add(int64(n))
			p.pass(o.kind, buf[:n])
			o.passedOn.Add(int64(n))
		}
		if err != nil { // the end, EIO from a terminal, or closed by Close
			o.eof.Store(true)
			if p.readers.Add(-1) == 0 {
				close(p.eof)
			}
			return
		}
	}
}

// pass sends one chunk to every listener.
func (p *process) pass(kind sourceKind, chunk []byte) {
	listeners := p.out.current()
	if len(listeners) == 0 {
		return
	}
	var data wire.DataEvent
	switch kind {
	case fromStdout:
		data.Stdout = chunk
	case fromStderr:
		data.Stderr = chunk
	case fromPTY:
		data.PTY = chunk
	}
	frame, _ := wire.AppendMessage(make([]byte, 0, 64+len(chunk)*4/3), wire.EventResponse{Event: wire.ProcessEvent{Data: &data}}) // cannot fail
	for _, l := range listeners {
		select {
		case l.frames <- frame:
		case <-l.gone:
		case <-p.quit:
			return
		}
	}
}

// drain waits until the listeners have all that the ended process wrote.
func (p *process) drain() {
	owed := make([]int64, len(p.outputs))
	for i, o := range p.outputs {
		owed[i] = int64(o.pending()) + o.read.Load() // in this order: never too little
	}
	ended := time.Now()
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	for {
		late := time.Since(ended) > drainMax
		settled := true
		for i, o := range p.outputs {
			done := o.eof.Load() || o.quiet(ended) || late && o.passedOn.Load() >= owed[i]
			settled = settled && done
		}
		if settled {
			return
		}
		select {
		case <-p.eof:
			return
		case <-p.quit:
			return
		case <-tick.C:
		}
	}
}

// quiet says that everything read was passed on and nothing came for a while
// since the process ended: a terminal's last bytes may still be on their way
// inside the kernel, where pending does not see them.
func (o *output) quiet(ended time.Time) bool {
	since := o.idleSince.Load()
	return since != 0 && time.Now().UnixNano()-max(since, ended.UnixNano()) > int64(drainQuiet) &&
		o.pending() == 0 && o.idleSince.Load() == since
}

// pending returns the bytes that wait to be read.
func (o *output) pending() int {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) // FIONREAD
	return n
}
