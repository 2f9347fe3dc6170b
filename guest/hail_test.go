package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/guest/boot"
	"github.com/dayfly/dayfly/guest/wire"
)

// port is a virtio port as the agent's program sees it: it reads what any host
// has written, in order, and io.EOF only if it looks while no host is there.
type port struct {
	mu     sync.Mutex
	change *sync.Cond
	in     []byte
	host   net.Conn      // the guest's end of the present host's connection; nil: none
	taken  int           // bytes of that host's that are in in, or were
	over   chan struct{} // closed when nothing of that host's comes any more
	gone   bool          // the machine has ended
	waits  bool          // the agent waits for a host

	asked chan string // the requests that reached the agent
}

func newPort() *port {
	p := &port{asked: make(chan string, 16)}
	p.change = sync.NewCond(&p.mu)
	return p
}

var errGone = errors.New("the machine has ended")

// connect puts a new host in the place of the one before, of which the agent
// hears nothing.
func (p *port) connect() net.Conn {
	host, inside := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host != nil {
		_ = p.host.Close() // and what it said before is heard before
		before := p.over
		p.mu.Unlock()
		<-before
		p.mu.Lock()
	}
	over := make(chan struct{})
	p.host, p.taken, p.over = inside, 0, over
	p.change.Broadcast()
	go func() {
		defer close(over)
		b := make([]byte, 4<<10)
		for {
			n, err := inside.Read(b)
			p.set(func() {
				p.in = append(p.in, b[:n]...)
				p.taken += n
			})
			if err != nil {
				return
			}
		}
	}()
	return host
}

// hangUp takes the host away; p.mu is held.
func (p *port) hangUp() {
	if p.host != nil {
		_ = p.host.Close()
		p.host = nil
	}
	p.change.Broadcast()
}

// set changes the port.
func (p *port) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.change.Broadcast()
}

// link is the port in one call of Serve.
type link struct {
	*port
	closed bool
}

func (l *link) Close() error { l.set(func() { l.closed = true }); return nil }

func (l *link) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.gone:
			return 0, errGone
		case l.closed:
			return 0, net.ErrClosed
		case len(l.in) > 0:
			n := copy(b, l.in)
			l.in = l.in[n:]
			l.change.Broadcast()
			return n, nil
		case l.host == nil:
			return 0, io.EOF
		}
		l.change.Wait()
	}
}

func (l *link) Write(b []byte) (int, error) {
	l.mu.Lock()
	for l.host == nil && !l.gone && !l.closed {
		l.waits = true
		l.change.Broadcast()
		l.change.Wait()
	}
	l.waits = false
	host, gone, closed := l.host, l.gone, l.closed
	l.mu.Unlock()
	switch {
	case gone:
		return 0, errGone
	case closed:
		return 0, net.ErrClosed
	}
	_, _ = host.Write(b) // a host that has left takes no notice
	return len(b), nil
}

// events are what can befall a channel before a host comes to stay.
var events = map[string]func(*port){
	"meeting left, unseen": func(p *port) { _, _ = open(p) },
	"meeting left, seen":   func(p *port) { _, _ = open(p); p.leave() },
	"meeting ended":        func(p *port) { s, _ := open(p); _ = s.Close() },
	"session left, unseen": func(p *port) { _ = begun(p) },
	"session left, seen":   func(p *port) { _ = begun(p); p.leave() },
	"session ended":        func(p *port) { _ = begun(p).Close() },
	"request left": func(p *port) {
		s := begun(p)
		go func() { _ = s.Poweroff(context.Background()) }() // it is cut off
		<-p.asked
	},
	"garbage":     func(p *port) { p.say("\x00\x01{\xff garbage\n\n dayfly-hail x\ndayfly-go \n{") },
	"long line":   func(p *port) { p.say(strings.Repeat("x", 3*wire.MaxHello)) },
	"hails left":  func(p *port) { p.say(strings.Repeat(wire.Hail+strings.Repeat("a", wire.NonceLen)+"\n", 50)) },
	"half a hail": func(p *port) { p.say("\n" + wire.Hail + "0123") },
	"hail and go left": func(p *port) {
		n := strings.Repeat("b", wire.NonceLen)
		p.say(wire.Hail + n + "\n" + wire.Go + n + "\n")
	},
	"call left": func(p *port) {
		s, _ := open(p)
		go func() { _ = s.Thaw(context.Background()) }() // it is cut off
		<-p.asked
	},
	"call without its end": func(p *port) {
		p.say(halfCall(100))
	},
	"frame without its end": func(p *port) { _ = begun(p); p.frame(100) },
	"no host for a while":   func(p *port) { p.leave() },
}

// halfCall is all that a host says that dies in a call of so many bytes.
func halfCall(size int) string {
	n := strings.Repeat("c", wire.NonceLen)
	return wire.Hail + n + "\n" + string(wire.Call{Nonce: n, Path: wire.RenewPath, Size: size}.AppendLine(nil)) + "{"
}

// say is a host that writes without listening, and is gone.
func (p *port) say(text string) {
	c := p.connect()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	_, _ = io.WriteString(c, text)
	p.until(func() bool { return p.taken == len(text) && len(p.in) == 0 })
}

// frame begins a yamux frame of n bytes for a stream that is not there.
func (p *port) frame(n uint32) {
	head := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, 0, 0, 0, 99}, n)
	p.set(func() { p.in = append(p.in, head...) })
	p.until(func() bool { return len(p.in) == 0 })
}

// leave hangs up and returns when the agent has seen it.
func (p *port) leave() {
	p.set(p.hangUp)
	p.until(func() bool { return p.waits })
}

func (p *port) until(cond func() bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !cond() {
		p.change.Wait()
	}
}

func open(p *port) (*guest.Session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, _, err := guest.Open(ctx, p.connect())
	return s, err
}

// begun is a session in which streams have begun.
func begun(p *port) *guest.Session {
	s, err := open(p)
	if err != nil {
		panic(err) // an agent answers every host
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := s.Dial(ctx, wire.AgentPort)
	if err != nil {
		panic(err)
	}
	_ = c.Close()
	return s
}

// hear lets something happen to an agent's channel and then calls the agent.
func hear(before func(*port)) error { return hearOn(newPort(), before) }

func hearOn(p *port, before func(*port)) error {
	sessions := boot.NewSessions(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked <- r.URL.Path
		if r.URL.Path == wire.PoweroffPath {
			<-r.Context().Done()
			return
		}
		if r.URL.Path == wire.ThawPath {
			return
		}
		_, _ = io.WriteString(w, `{}`)
	}))
	served := make(chan struct{})
	go func() {
		defer close(served)
		for !p.isGone() {
			_ = sessions.Serve(&link{port: p}, func() wire.Hello { return hello })
		}
	}()
	defer func() {
		p.set(func() { p.gone = true; p.hangUp() })
		<-served
		_ = sessions.Close()
	}()
	before(p)
	s, err := open(p)
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := s.Init(ctx, wire.Init{}); err != nil {
		return err
	}
	path := <-p.asked
	for wire.MayCall(path) { // of a host before, whose words another may have ended
		path = <-p.asked
	}
	if path != wire.InitPath {
		return fmt.Errorf("the agent was asked for %s", path)
	}
	return nil
}

func (p *port) isGone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// TestHostIsHeardWhateverCameBefore in any order.
func TestHostIsHeardWhateverCameBefore(t *testing.T) {
	names := slices.Sorted(maps.Keys(events))
	rapid.Check(t, func(t *rapid.T) {
		order := rapid.SliceOfN(rapid.SampledFrom(names), 0, 3).Draw(t, "events")
		err := hear(func(p *port) {
			for _, name := range order {
				events[name](p)
			}
		})
		if err != nil {
			t.Fatalf("after %q: %v", order, err)
		}
	})
}

// TestHostIsHeardInTheMiddleOfTheLongestFrame takes as many hails as it takes
// for padding to come.
func TestHostIsHeardInTheMiddleOfTheLongestFrame(t *testing.T) {
	err := hear(func(p *port) {
		_ = begun(p)
		p.frame(256 << 10)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostIsHeardInTheMiddleOfTheLongestCall likewise.
func TestHostIsHeardInTheMiddleOfTheLongestCall(t *testing.T) {
	if err := hear(func(p *port) { p.say(halfCall(wire.MaxCall)) }); err != nil {
		t.Fatal(err)
	}
}

// TestQueuedHailsAreOneGreeting: a guest that boots slowly is hailed many times,
// and answers all of them at once.
func TestQueuedHailsAreOneGreeting(t *testing.T) {
	host, inside := net.Pipe()
	hails := &queue{Conn: inside}
	sessions := boot.NewSessions(http.NotFoundHandler())
	defer sessions.Close()
	served := make(chan error, 1)
	go func() {
		hails.fill(5)
		served <- sessions.Serve(hails, func() wire.Hello { return hello })
	}()
	s, _, err := guest.Open(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	var no *guest.Refusal
	if _, err := s.Init(t.Context(), wire.Init{}); !errors.As(err, &no) || no.Status != http.StatusNotFound {
		t.Errorf("Init = %v", err)
	}
	_ = s.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// queue is a connection whose first lines have waited.
type queue struct {
	net.Conn
	waited bytes.Buffer
}

func (q *queue) fill(lines int) {
	b := make([]byte, 1)
	for lines > 0 {
		if _, err := q.Conn.Read(b); err != nil {
			return
		}
		q.waited.Write(b)
		if b[0] == '\n' {
			lines--
		}
	}
}

func (q *queue) Read(p []byte) (int, error) {
	if q.waited.Len() > 0 {
		return q.waited.Read(p)
	}
	return q.Conn.Read(p)
}

// FuzzAgentChannel lets a host say anything ahead of a proper one.
func FuzzAgentChannel(f *testing.F) {
	n := strings.Repeat("0", wire.NonceLen)
	f.Add([]byte("\n" + wire.Hail + n + "\n" + wire.Go + n + "\n\x00\x01"))
	f.Add(bytes.Repeat([]byte{0}, 64))
	f.Fuzz(func(t *testing.T, said []byte) {
		if err := hear(func(p *port) { p.say(string(said)) }); err != nil {
			t.Fatal(err)
		}
	})
}
