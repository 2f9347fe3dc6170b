package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// mainTag names the main command among the processes of a guest.
const mainTag = "main"

// unknownExit is the code of a main command whose end nobody has seen.
const unknownExit = -1

// beginning is what is known of a main command when it begins to be followed.
type beginning int

const (
	beginAnew  beginning = iota // there is none: start it
	elseAnew                    // it may be there; if not, start it
	goesOn                      // it is there, or has ended meanwhile
	maybeBegun                  // the server ended some time after the machine began to run
	hasEnded                    // and that is known: nothing to do
)

// mainCommand follows a workspace's main command.
type mainCommand struct {
	c    *Control
	id   dayfly.ID
	spec dayfly.Spec
	how  beginning
}

// run starts or finds the command, keeps its output, and returns how it ended;
// false: ctx has ended, or there is nothing to be followed.
func (m *mainCommand) run(ctx context.Context) (dayfly.Exit, bool) {
	if m.how == hasEnded {
		return dayfly.Exit{}, false
	}
	out := m.c.openLog(m.id)
	defer out.Close()
	g := m.c.guest(m.id)
	defer g.close()
	for {
		exit, err := m.once(ctx, g, out)
		if ctx.Err() != nil {
			return dayfly.Exit{}, false
		}
		if err == nil {
			return exit, true
		}
		// The connection is lost, or the guest is too busy: the command goes on.
		if !sleep(ctx, time.Second) {
			return dayfly.Exit{}, false
		}
	}
}

// once is one connection to the command, from its beginning, or from now on, to
// its end.
func (m *mainCommand) once(ctx context.Context, g *guestClient, out *logWriter) (dayfly.Exit, error) {
	if m.how == beginAnew {
		return m.begin(ctx, g, out)
	}
	began := m.how != maybeBegun || m.c.wasBegun(m.id)
	stream, err := g.ServerStream(ctx, wire.ProcessConnect, wire.ConnectRequest{Process: &wire.ProcessSelector{Tag: mainTag}})
	var gone bool
	if err == nil {
		defer stream.Close()
		out.note("the server followed this output again from here: some before may be missing")
		var exit dayfly.Exit
		if exit, err = copyOutput(stream, out, func() { m.how = goesOn }); err == nil {
			return exit, nil
		}
	}
	gone = wire.CodeOf(err) == wire.NotFound
	switch {
	case !gone:
		return dayfly.Exit{}, err
	case m.how == elseAnew || !began:
		m.how = beginAnew
		return m.begin(ctx, g, out)
	}
	out.note("the main command has ended while nobody saw it: its exit code is not known")
	return dayfly.Exit{Code: unknownExit}, nil
}

func (m *mainCommand) begin(ctx context.Context, g *guestClient, out *logWriter) (dayfly.Exit, error) {
	tag, stdin := mainTag, false
	p := &wire.ProcessConfig{Args: m.spec.Command}
	if !m.spec.ImageCommand {
		p.Cmd, p.Args = m.spec.Command[0], m.spec.Command[1:]
	}
	stream, err := g.ServerStream(ctx, wire.ProcessStart, wire.StartRequest{Process: p, Tag: &tag, Stdin: &stdin})
	if err == nil {
		defer stream.Close()
		var exit dayfly.Exit
		exit, err = copyOutput(stream, out, func() {
			m.how = goesOn
			m.c.noteBegun(m.id)
		})
		if err == nil {
			return exit, nil
		}
	}
	if code, ok := wire.StartFailure(err); ok {
		out.note(fmt.Sprintf("the main command could not be started: %q", err.Error()))
		return dayfly.Exit{Code: code}, nil
	}
	if wire.CodeOf(err) == wire.InvalidArgument {
		out.note(fmt.Sprintf("the main command could not be started: %q", err.Error()))
		return dayfly.Exit{Code: wire.ExitCannotExecute}, nil
	}
	return dayfly.Exit{}, err
}

// copyOutput reads the events of a process to its end. begun is called when it is
// sure that it runs.
func copyOutput(stream *wire.Stream, out io.Writer, begun func()) (dayfly.Exit, error) {
	for {
		var ev wire.EventResponse
		if err := stream.Receive(&ev); err != nil {
			if errors.Is(err, io.EOF) {
				err = wire.Errorf(wire.Unavailable, "the stream ended before the process")
			}
			return dayfly.Exit{}, err
		}
		switch e := ev.Event; {
		case e.Start != nil:
			begun()
		case e.Data != nil:
			for _, part := range []wire.Bytes{e.Data.Stdout, e.Data.Stderr, e.Data.PTY} {
				_, _ = out.Write(part) // a full disk must not end what runs
			}
		case e.End != nil:
			return exitOf(*e.End), nil
		}
	}
}

// exitOf bounds what a guest says like a real status.
func exitOf(end wire.EndEvent) dayfly.Exit {
	if n, ok := wire.SignalOf(end); ok {
		return dayfly.Exit{Code: 128 + n, Signal: n}
	}
	return dayfly.Exit{Code: int(end.ExitCode) & 0xff}
}

// attempt is one run of a ready check.
type attempt struct {
	exit   dayfly.Exit
	output string // its end
	err    error
}

// maxSaid bounds what of a ready check's output is quoted.
const maxSaid = 1 << 10

// try runs a command in the guest.
func (c *Control) try(ctx context.Context, id dayfly.ID, command []string) attempt {
	g := c.guest(id)
	defer g.close()
	stdin := false
	stream, err := g.ServerStream(ctx, wire.ProcessStart, wire.StartRequest{
		Process: &wire.ProcessConfig{Cmd: command[0], Args: command[1:]}, Stdin: &stdin,
	})
	var end tail
	var exit dayfly.Exit
	if err == nil {
		defer stream.Close()
		exit, err = copyOutput(stream, &end, func() {})
	}
	if code, ok := wire.StartFailure(err); ok {
		return attempt{exit: dayfly.Exit{Code: code}, output: string(end)}
	}
	return attempt{exit: exit, output: string(end), err: err}
}

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if n := len(*t) - maxSaid; n > 0 {
		*t = append((*t)[:0], (*t)[n:]...)
	}
	return len(p), nil
}

// guestClient calls a workspace's agent. What it does is no use of the workspace.
type guestClient struct {
	*wire.Client
	t *http.Transport
}

func (c *Control) guest(id dayfly.ID) *guestClient {
	t := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.node.Dial(ctx, id, wire.AgentPort) },
		DisableKeepAlives: true, DisableCompression: true,
	}
	return &guestClient{t: t, Client: &wire.Client{HTTP: &http.Client{Transport: t}, Base: "http://guest"}}
}

func (g *guestClient) close() { g.t.CloseIdleConnections() }

// startedMark is what the name of a file ends with that says that the main
// command of the machine that runs has been started.
const startedMark = ".started"

func (c *Control) noteBegun(id dayfly.ID) {
	if err := os.WriteFile(c.logFile(id)+startedMark, nil, 0o600); err != nil {
		c.log.Warn("mark of a main command", "workspace", id, "err", err)
	}
}

func (c *Control) forgetBegun(id dayfly.ID) { _ = os.Remove(c.logFile(id) + startedMark) } // most have none

func (c *Control) wasBegun(id dayfly.ID) bool {
	_, err := os.Stat(c.logFile(id) + startedMark)
	return err == nil
}
