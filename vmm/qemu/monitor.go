package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	answerLimit = 30 * time.Second // until QEMU counts as stuck; a busy host takes seconds
	maxAwaited  = 64               // commands under way on one monitor
)

var errMonitorClosed = errors.New("qmp: connection ended")

// monitor is a QMP connection. Its methods may be called at the same time.
type monitor struct {
	conn   net.Conn
	events func(message) // called by the reader: must not block
	ended  chan struct{} // closed when the reader has ended

	write sync.Mutex // held while a command is written

	mu      sync.Mutex
	last    uint64
	awaited map[uint64]chan message
	err     error // why the reader ended
}

// newMonitor starts reading from conn, which it owns. Commands may be sent
// before QEMU is there: they wait in the socket.
func newMonitor(conn net.Conn, events func(message)) *monitor {
	m := &monitor{conn: conn, events: events, ended: make(chan struct{}), awaited: map[uint64]chan message{}}
	go m.read()
	return m
}

// Close ends the connection and waits for the reader.
func (m *monitor) Close() error {
	err := m.conn.Close()
	<-m.ended
	return err
}

// Err says why the connection ended; io.EOF means that QEMU hung up.
func (m *monitor) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// call is a command that has been sent.
type call struct {
	m    *monitor
	id   uint64
	back chan message
}

// send sends a command without waiting for the answer. Arguments may be withFile.
func (m *monitor) send(name string, args any) (*call, error) {
	c := &call{m: m, back: make(chan message, 1)}
	m.mu.Lock()
	switch {
	case m.err != nil:
		m.mu.Unlock()
		return nil, errMonitorClosed
	case len(m.awaited) >= maxAwaited:
		m.mu.Unlock()
		return nil, errors.New("qmp: too many commands under way")
	}
	m.last++
	c.id = m.last
	m.awaited[c.id] = c.back
	m.mu.Unlock()

	if err := m.put(c.id, name, args); err != nil {
		c.forget()
		return nil, fmt.Errorf("qmp: %s: %w", name, err)
	}
	return c, nil
}

// withFile are arguments with which a descriptor goes.
type withFile struct {
	args any
	file *os.File
}

func (m *monitor) put(id uint64, name string, args any) error {
	with, handing := args.(withFile)
	if handing {
		args = with.args
	}
	line, err := json.Marshal(struct {
		Execute string `json:"execute"`
		Args    any    `json:"arguments,omitempty"`
		ID      uint64 `json:"id"`
	}{name, args, id})
	if err != nil {
		return err
	}
	m.write.Lock()
	defer m.write.Unlock()
	if err := m.conn.SetWriteDeadline(time.Now().Add(answerLimit)); err != nil {
		return err
	}
	line = append(line, '\n')
	if !handing {
		_, err = m.conn.Write(line)
		return err
	}
	conn, ok := m.conn.(*net.UnixConn)
	if !ok {
		return errors.New("qmp: descriptors go over unix sockets alone")
	}
	_, _, err = conn.WriteMsgUnix(line, unix.UnixRights(int(with.file.Fd())), nil)
	return err
}

func (c *call) forget() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	delete(c.m.awaited, c.id)
}

// wait waits for the answer and stores its value in out, unless that is nil.
func (c *call) wait(ctx context.Context, out any) error {
	defer c.forget()
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("qmp: no answer within %s", answerLimit))
	defer cancel()
	select {
	case m, ok := <-c.back:
		if !ok {
			return errMonitorClosed
		}
		if m.Error != nil {
			return m.Error
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(m.Return, out)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// execute sends a command and waits for its answer.
func (m *monitor) execute(ctx context.Context, name string, args, out any) error {
	c, err := m.send(name, args)
	if err != nil {
		return err
	}
	if err := c.wait(ctx, out); err != nil {
		return fmt.Errorf("qmp: %s: %w", name, err)
	}
	return nil
}

func (m *monitor) read() {
	defer close(m.ended)
	r := newReader(m.conn)
	for {
		msg, err := r.next()
		if err == nil {
			err = m.take(msg)
		}
		if err != nil {
			m.fail(err)
			return
		}
	}
}

func (m *monitor) take(msg message) error {
	if msg.Return == nil && msg.Error == nil {
		m.events(msg)
		return nil
	}
	if msg.ID == nil {
		return errors.New("qmp: an answer to no command")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if back, ok := m.awaited[*msg.ID]; ok {
		back <- msg // one answer per command: it is taken out of the map here
		delete(m.awaited, *msg.ID)
	}
	return nil
}

// fail ends every wait. The connection is closed here so that nothing more is
// sent to a QEMU that is no longer understood.
func (m *monitor) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	m.err = err
	for id, back := range m.awaited {
		close(back)
		delete(m.awaited, id)
	}
	_ = m.conn.Close()
}
