package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Channels of a command, as in the first byte of a WebSocket's binary message.
const (
	stdin  = 0
	stdout = 1
	stderr = 2
)

const (
	// maxExecTime bounds the time a command can be given.
	maxExecTime = 365 * 24 * time.Hour

	// killTime is how long the delivery of a last signal may take, and then the
	// end that it brings.
	killTime = 10 * time.Second

	// guestTime bounds a call to a guest that has one answer.
	guestTime = time.Minute

	inputChunk = 64 << 10
)

// agentOf is the in-guest API of a workspace on behalf of a user.
func (s *Server) agentOf(id dayfly.ID, user string) *wire.Client {
	c := &wire.Client{HTTP: &http.Client{Transport: s.guests.transport(id)}, Base: "http://" + string(id)}
	if user != "" {
		c.Header = http.Header{"Authorization": {basic(user)}}
	}
	return c
}

// guestError is an error of the in-guest API for a caller.
func guestError(ctx context.Context, id dayfly.ID, err error) error {
	var ours *dayfly.Error
	var theirs *wire.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		return ours
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &theirs):
		// Unavailable is one that did not answer.
		if kind, ok := theirs.Code.Kind(); ok && kind != dayfly.Unavailable {
			return &dayfly.Error{Kind: kind, Stage: "guest", Msg: theirs.Message, Err: err}
		}
	}
	return unusable(id, err)
}

// unusable is the error of a guest that did not answer as it should. What it
// said instead is logged, quoted, and not sent.
func unusable(id dayfly.ID, err error) error {
	return withStatus(http.StatusBadGateway, &dayfly.Error{
		Kind: dayfly.Unavailable, Stage: "guest", Err: err,
		Msg: "workspace " + string(id) + ": its in-guest API did not give a usable answer: the machine may be ending, or what runs in it has taken over the agent",
	})
}

// check refuses a command that cannot be run.
func (x Exec) check() error {
	switch {
	case (len(x.Command) > 0) == (x.Shell != ""):
		return dayfly.Errorf(dayfly.Invalid, "name the command to run in one of command, a list, and shell, a line")
	case len(x.Command) > 0 && x.Command[0] == "":
		return dayfly.Errorf(dayfly.Invalid, "command[0] is empty: it is the program to run")
	case x.Stdin != nil && x.StdinBase64 != nil:
		return dayfly.Errorf(dayfly.Invalid, "stdin and stdin_base64 are both given: use one")
	case x.TimeoutS < 0 || x.TimeoutS > int(maxExecTime.Seconds()):
		return dayfly.Errorf(dayfly.Invalid, "timeout is %d s: use 0 for none, or up to %d", x.TimeoutS, int(maxExecTime.Seconds()))
	case x.Size != nil && !x.Size.ok():
		return dayfly.Errorf(dayfly.Invalid, "size: use 1 to 65535 columns and rows")
	case x.Detach && (x.Tty || x.OpenStdin):
		return dayfly.Errorf(dayfly.Invalid, "a detached command has no terminal and no input that stays open")
	}
	return nil
}

func (z TerminalSize) ok() bool {
	const most = 0xffff // as struct winsize
	return z.Cols > 0 && z.Cols <= most && z.Rows > 0 && z.Rows <= most
}

func (z TerminalSize) wire() *wire.PTY {
	return &wire.PTY{Size: &wire.Size{Cols: uint32(z.Cols), Rows: uint32(z.Rows)}}
}

// input is what a request brings for the command's input, nil if nothing.
func (x Exec) input() io.Reader {
	switch {
	case x.Stdin != nil:
		return strings.NewReader(*x.Stdin)
	case x.StdinBase64 != nil:
		return strings.NewReader(string(x.StdinBase64))
	}
	return nil
}

func (x Exec) request(open bool) wire.StartRequest {
	line := x.Command
	if x.Shell != "" {
		line = []string{"/bin/sh", "-c", x.Shell}
	}
	req := wire.StartRequest{Process: &wire.ProcessConfig{Cmd: line[0], Args: line[1:], Envs: x.Env}, Stdin: &open}
	if x.Cwd != "" {
		req.Process.Cwd = &x.Cwd
	}
	if x.Tty {
		size := TerminalSize{Cols: 80, Rows: 24}
		if x.Size != nil {
			size = *x.Size
		}
		req.PTY = size.wire()
	}
	return req
}

// command is a process of a guest that runs for a caller.
type command struct {
	id     dayfly.ID
	agent  *wire.Client
	stream *wire.Stream
	pid    int
	tty    bool
	late   time.Duration // after which it is killed; 0: never
	cancel func()        // ends the stream
}

// begin starts a command. A caller that leaves meanwhile is no reason not to
// hear of the start: what has no pid cannot be ended. After begin comes run, or
// close, which leaves the command running.
func (s *Server) begin(ctx context.Context, id dayfly.ID, x Exec, open bool) (*command, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	patience := context.AfterFunc(ctx, func() {
		_ = sleep(life, killTime)
		cancel()
	})
	c := &command{id: id, agent: s.agentOf(id, x.User), tty: x.Tty, late: time.Duration(x.TimeoutS) * time.Second, cancel: cancel}
	err := c.start(life, x.request(open))
	if !patience() && err == nil {
		c.end(ctx)
		err = ctx.Err()
	}
	if err != nil {
		c.close()
		return nil, guestError(ctx, id, err)
	}
	return c, nil
}

func (c *command) start(ctx context.Context, req wire.StartRequest) (err error) {
	if c.stream, err = c.agent.ServerStream(ctx, wire.ProcessStart, req); err != nil {
		return err
	}
	var ev wire.EventResponse
	if err := c.stream.Receive(&ev); err != nil {
		return err
	}
	if ev.Event.Start == nil {
		return errors.New("the first event of a command is not its start")
	}
	c.pid = int(ev.Event.Start.PID)
	return nil
}

// close ends the connection to a command.
func (c *command) close() {
	c.cancel()
	if c.stream != nil {
		_ = c.stream.Close()
	}
}

// outcome is how a command ended.
type outcome struct {
	code, signal int
	timedOut     bool
}

// run carries a command's input and output until it has ended. If ctx, or out,
// ends first, it ends the command. in may be nil.
func (c *command) run(ctx context.Context, in io.Reader, out func(channel byte, data []byte) error) (outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, c.cancel)
	var feeding sync.WaitGroup
	if in != nil {
		feeding.Go(func() { c.feed(ctx, in) })
	}
	var late atomic.Bool
	if c.late > 0 {
		timer := time.AfterFunc(c.late, func() {
			late.Store(true)
			_ = c.signal(ctx, wire.SIGKILL)
			_ = sleep(ctx, killTime)
			cancel() // a guest that does not even say that it ended is not waited for
		})
		defer timer.Stop()
	}
	defer func() {
		cancel()
		if closer, ok := in.(io.Closer); ok {
			_ = closer.Close()
		}
		feeding.Wait()
		stop()
		c.close()
	}()
	o, err := c.carry(ctx, out)
	o.timedOut = late.Load()
	if err != nil {
		c.end(ctx)
		if o.timedOut {
			err = unusable(c.id, err)
		}
	}
	return o, err
}

func (c *command) carry(ctx context.Context, out func(byte, []byte) error) (outcome, error) {
	for {
		var ev wire.EventResponse
		if err := c.stream.Receive(&ev); err != nil {
			return outcome{}, guestError(ctx, c.id, err)
		}
		switch e := ev.Event; {
		case e.End != nil:
			if n, ok := wire.SignalOf(*e.End); ok {
				return outcome{code: 128 + n, signal: n}, nil
			}
			return outcome{code: int(e.End.ExitCode) & 0xff}, nil // bounded like a real status
		case e.Data != nil:
			for channel, data := range [][]byte{stdout: append(e.Data.Stdout, e.Data.PTY...), stderr: e.Data.Stderr} {
				if len(data) == 0 {
					continue
				}
				if err := out(byte(channel), data); err != nil {
					return outcome{}, err
				}
			}
		}
	}
}

// end ends a command that nobody waits for any more: one with a terminal hears
// that it was hung up.
func (c *command) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	last := wire.SIGKILL
	if c.tty {
		last = wire.SIGHUP
	}
	_ = c.signal(ctx, last)
}

func (c *command) selector() *wire.ProcessSelector { return &wire.ProcessSelector{PID: uint32(c.pid)} }

func (c *command) signal(ctx context.Context, sig wire.Signal) error {
	return c.agent.Unary(ctx, wire.ProcessSendSignal, wire.SendSignalRequest{Process: c.selector(), Signal: sig}, nil)
}

func (c *command) resize(ctx context.Context, z TerminalSize) error {
	return c.agent.Unary(ctx, wire.ProcessUpdate, wire.UpdateRequest{Process: c.selector(), PTY: z.wire()}, nil)
}

// feed streams input to the command until either ends. One that takes no more
// has closed its input, as it may.
func (c *command) feed(ctx context.Context, in io.Reader) {
	to, err := c.agent.ClientStream(ctx, wire.ProcessStreamInput)
	if err != nil {
		return
	}
	err = to.Send(wire.StreamInputRequest{Start: &wire.StreamInputStart{Process: c.selector()}})
	buf := make([]byte, inputChunk)
	for err == nil {
		n, readErr := in.Read(buf)
		if n > 0 {
			data := wire.Bytes(buf[:n])
			chunk := &wire.ProcessInput{Stdin: &data}
			if c.tty {
				chunk = &wire.ProcessInput{PTY: &data}
			}
			err = to.Send(wire.StreamInputRequest{Data: &wire.StreamInputData{Input: chunk}})
		}
		err = cmp.Or(err, readErr)
	}
	if to.CloseAndReceive(nil) == nil && !c.tty {
		_ = c.agent.Unary(ctx, wire.ProcessCloseStdin, wire.CloseStdinRequest{Process: c.selector()}, nil)
	}
}
