package client

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Command is what to run in a workspace, where, and what it is connected to.
type Command struct {
	// Path is the program. If it is empty the image's entrypoint is run, with
	// Args or, if there are none, the image's own arguments.
	Path string
	Args []string

	Env  map[string]string // added to the workspace's environment
	Dir  string            // default: the workspace's
	User string            // name or uid; default: the workspace's

	// Stdin is streamed to the command, its end included, without being
	// gathered. If it is nil the command reads from /dev/null.
	Stdin io.Reader

	// Stdout and Stderr take output as it comes, one write at a time each. What
	// they do not take the command waits for. Nil discards.
	Stdout, Stderr io.Writer

	// TTY gives the command a terminal of that size. All its output then goes
	// to Stdout.
	TTY *Size
}

// Size is a terminal's size in characters.
type Size struct{ Cols, Rows int }

func (s Size) wire() *wire.PTY {
	bound := func(n int) uint32 { return uint32(min(max(n, 0), 0xffff)) } // as struct winsize
	return &wire.PTY{Size: &wire.Size{Cols: bound(s.Cols), Rows: bound(s.Rows)}}
}

// Exit is how a command ended.
type Exit struct {
	Code   int // its exit code, or 128 and the signal's number as shells have it
	Signal int // the number of the signal that ended it, or 0
}

// Process is a command that was started. Its methods may be called at the same
// time. It runs on when the connection to it is lost.
type Process struct {
	PID int // in the workspace

	agent  *wire.Client
	stream *wire.Stream
	tty    bool
	done   chan struct{} // closed when exit and err are set
	exit   Exit
	err    error
}

// Start runs a command in a workspace and returns once it has started. The
// command's output and Stdin are carried until it ends, or until ctx does,
// which leaves the command running. ExitCode tells what a shell would say of an
// error of Start.
func (c *Client) Start(ctx context.Context, id dayfly.ID, cmd Command) (*Process, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p := &Process{agent: c.guest(id, cmd.User), tty: cmd.TTY != nil, done: make(chan struct{})}
	stream, err := p.agent.ServerStream(ctx, wire.ProcessStart, cmd.request())
	if err != nil {
		return nil, guestError(err)
	}
	p.stream = stream
	if err := p.started(); err != nil {
		_ = stream.Close()
		return nil, err
	}
	go p.carry(cmd.Stdout, cmd.Stderr)
	if cmd.Stdin != nil {
		go p.feed(ctx, cmd.Stdin)
	}
	return p, nil
}

func (c *Client) guest(id dayfly.ID, user string) *wire.Client {
	agent := &wire.Client{
		HTTP: &http.Client{Transport: edge{c.http.Transport}},
		Base: c.base + "/v1/workspaces/" + url.PathEscape(string(id)) + "/guest",
	}
	if user != "" {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, "")
		agent.Header = r.Header
	}
	return agent
}

func (cmd Command) request() wire.StartRequest {
	stdin := cmd.Stdin != nil
	req := wire.StartRequest{
		Process: &wire.ProcessConfig{Cmd: cmd.Path, Args: cmd.Args, Envs: cmd.Env},
		Stdin:   &stdin,
	}
	if cmd.Dir != "" {
		req.Process.Cwd = &cmd.Dir
	}
	if cmd.TTY != nil {
		req.PTY = cmd.TTY.wire()
	}
	return req
}

// started reads the first event, which says that the process runs.
func (p *Process) started() error {
	var ev wire.EventResponse
	if err := p.stream.Receive(&ev); err != nil {
		return guestError(err)
	}
	if ev.Event.Start == nil {
		return guestError(wire.Errorf(wire.Internal, "the first event of the command is not its start"))
	}
	p.PID = int(ev.Event.Start.PID)
	return nil
}

// carry hands on output until the process has ended.
func (p *Process) carry(stdout, stderr io.Writer) {
	defer close(p.done)
	defer p.stream.Close()
	for {
		var ev wire.EventResponse
		if err := p.stream.Receive(&ev); err != nil {
			p.err = lost(err)
			return
		}
		switch e := ev.Event; {
		case e.Data != nil:
			if p.err = output(*e.Data, stdout, stderr); p.err != nil {
				return
			}
		case e.End != nil:
			p.exit = exitOf(*e.End)
			return
		}
	}
}

func output(d wire.DataEvent, stdout, stderr io.Writer) error {
	for _, part := range []struct {
		to   io.Writer
		data []byte
	}{{stdout, d.Stdout}, {stderr, d.Stderr}, {stdout, d.PTY}} {
		if part.to == nil || len(part.data) == 0 {
			continue
		}
		if _, err := part.to.Write(part.data); err != nil {
			return err
		}
	}
	return nil
}

func exitOf(end wire.EndEvent) Exit {
	if n, ok := wire.SignalOf(end); ok {
		return Exit{Code: 128 + n, Signal: n}
	}
	return Exit{Code: int(end.ExitCode) & 0xff} // what a guest says is bounded like a real status
}

// Wait returns how the command ended once it has and its output is written. An
// error means that this is not known: that of a writer that took no more, of
// the context given to Start, or a *dayfly.Error where the workspace ended first.
func (p *Process) Wait() (Exit, error) {
	<-p.done
	return p.exit, p.err
}

// Done is closed when Wait would return at once.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the command and its process group.
func (p *Process) Signal(ctx context.Context, s wire.Signal) error {
	req := wire.SendSignalRequest{Process: p.selector(), Signal: s}
	return guestError(p.agent.Unary(ctx, wire.ProcessSendSignal, req, nil))
}

// Resize changes the size of the command's terminal.
func (p *Process) Resize(ctx context.Context, s Size) error {
	return guestError(p.agent.Unary(ctx, wire.ProcessUpdate, wire.UpdateRequest{Process: p.selector(), PTY: s.wire()}, nil))
}

func (p *Process) selector() *wire.ProcessSelector {
	return &wire.ProcessSelector{PID: uint32(p.PID)}
}

// inputChunk is how much of Stdin is sent in one message.
const inputChunk = 64 << 10

// feed streams input to the process until either ends. A process that takes no
// more has closed its input, as it may.
func (p *Process) feed(ctx context.Context, stdin io.Reader) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	in, err := p.agent.ClientStream(ctx, wire.ProcessStreamInput)
	if err != nil {
		return
	}
	err = in.Send(wire.StreamInputRequest{Start: &wire.StreamInputStart{Process: p.selector()}})
	buf := make([]byte, inputChunk)
	for err == nil {
		n, readErr := stdin.Read(buf)
		if n > 0 {
			err = in.Send(p.input(buf[:n]))
		}
		err = cmp.Or(err, readErr)
	}
	if in.CloseAndReceive(nil) == nil && !p.tty {
		_ = p.agent.Unary(ctx, wire.ProcessCloseStdin, wire.CloseStdinRequest{Process: p.selector()}, nil)
	}
}

func (p *Process) input(data []byte) wire.StreamInputRequest {
	b := wire.Bytes(data)
	in := &wire.ProcessInput{Stdin: &b}
	if p.tty {
		in = &wire.ProcessInput{PTY: &b}
	}
	return wire.StreamInputRequest{Data: &wire.StreamInputData{Input: in}}
}
