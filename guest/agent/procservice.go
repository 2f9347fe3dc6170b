package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// Seconds between keepalives on a quiet stream: where the client names none,
// and the bounds on what it may name.
const (
	keepaliveDefault = 90
	keepaliveMax     = 3600
)

// serveProcess serves the procedures of process.Process, and says whether the
// path is one.
func (a *Agent) serveProcess(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case wire.ProcessStart:
		wire.ServeStream(w, r, func(ctx context.Context, req *wire.StartRequest, s *wire.ResponseStream) error {
			return a.startProcess(ctx, r, req, s)
		})
	case wire.ProcessConnect:
		wire.ServeStream(w, r, func(ctx context.Context, req *wire.ConnectRequest, s *wire.ResponseStream) error {
			return a.connectProcess(ctx, r, req, s)
		})
	case wire.ProcessList:
		wire.ServeUnary(w, r, func(context.Context, *wire.ListRequest) (*wire.ListResponse, error) {
			return &wire.ListResponse{Processes: a.procs.list()}, nil
		})
	case wire.ProcessUpdate:
		wire.ServeUnary(w, r, a.updateProcess)
	case wire.ProcessSendInput:
		wire.ServeUnary(w, r, a.sendInput)
	case wire.ProcessStreamInput:
		wire.ServeClientStream(w, r, a.streamInput)
	case wire.ProcessSendSignal:
		wire.ServeUnary(w, r, a.sendSignal)
	case wire.ProcessCloseStdin:
		wire.ServeUnary(w, r, a.closeStdin)
	default:
		return false
	}
	return true
}

func (a *Agent) startProcess(ctx context.Context, r *http.Request, req *wire.StartRequest, s *wire.ResponseStream) error {
	user, err := a.userOf(r)
	if err != nil {
		return err
	}
	l, err := a.plan(user, req)
	if err != nil {
		return err
	}
	lifetime, err := wire.Timeout(r.Header)
	if err != nil {
		return err
	}
	p, first, err := a.start(l, req, lifetime)
	if err != nil {
		return err
	}
	return p.stream(ctx, first, s, keepalive(r))
}

func (a *Agent) connectProcess(ctx context.Context, r *http.Request, req *wire.ConnectRequest, s *wire.ResponseStream) error {
	p, err := a.procs.find(req.Process, true)
	if err != nil {
		return err
	}
	return p.stream(ctx, p.out.attach(), s, keepalive(r))
}

// stream sends a process's events until its end, the client's, or the call's.
func (p *process) stream(ctx context.Context, l *listener, s *wire.ResponseStream, every time.Duration) error {
	defer p.out.detach(l)
	err := s.Send(wire.EventResponse{Event: wire.ProcessEvent{Start: &wire.StartEvent{PID: uint32(p.child.PID())}}})
	quiet := time.NewTimer(every)
	defer quiet.Stop()
	for err == nil {
		select {
		case frame := <-l.frames:
			err = p.sendFrames(l, s, frame)
			quiet.Reset(every)
		case <-p.done:
			return p.sendEnd(l, s)
		case <-quiet.C:
			err = s.Send(wire.EventResponse{Event: wire.ProcessEvent{Keepalive: &wire.Empty{}}})
			quiet.Reset(every)
		case <-ctx.Done():
			err = p.cutOff(ctx)
		}
	}
	return err
}

// sendFrames sends a chunk and whatever waits behind it, then flushes.
func (p *process) sendFrames(l *listener, s *wire.ResponseStream, frame []byte) error {
	for {
		if err := s.Write(frame); err != nil {
			return err
		}
		select {
		case frame = <-l.frames:
		default:
			return s.Flush()
		}
	}
}

// sendEnd sends what is left, and the end.
func (p *process) sendEnd(l *listener, s *wire.ResponseStream) error {
	for {
		select {
		case frame := <-l.frames:
			if err := s.Write(frame); err != nil {
				return err
			}
			continue
		default:
		}
		if p.timedOut.Load() {
			return errLifetime
		}
		return s.Write(p.end)
	}
}

var errLifetime = &wire.Error{Code: wire.DeadlineExceeded, Message: "the process was killed when its time was up"}

// cutOff words the end of a call whose process goes on, or is about to be
// killed by its timer.
func (p *process) cutOff(ctx context.Context) error {
	if p.timedOut.Load() {
		return errLifetime
	}
	return ctx.Err()
}

// keepalive reads the client's interval.
func keepalive(r *http.Request) time.Duration {
	n, err := strconv.Atoi(r.Header.Get(wire.KeepaliveHeader))
	if err != nil || n < 1 {
		n = keepaliveDefault
	}
	return time.Duration(min(n, keepaliveMax)) * time.Second
}

func (a *Agent) updateProcess(_ context.Context, req *wire.UpdateRequest) (*wire.Empty, error) {
	p, err := a.procs.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	if req.PTY == nil {
		return &wire.Empty{}, nil
	}
	if !p.input.pty {
		return nil, wire.Errorf(wire.FailedPrecondition, "the process has no pty to resize")
	}
	if err := resize(p.input.file, req.PTY.Size); err != nil {
		return nil, wire.Errorf(wire.Internal, "resize pty: %v", reason(err))
	}
	return &wire.Empty{}, nil
}

func (a *Agent) sendInput(ctx context.Context, req *wire.SendInputRequest) (*wire.Empty, error) {
	p, err := a.procs.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	return &wire.Empty{}, p.input.write(ctx, req.Input)
}

func (a *Agent) streamInput(ctx context.Context, in *wire.RequestStream) (*wire.Empty, error) {
	var p *process
	for {
		var msg wire.StreamInputRequest
		err := in.Receive(&msg)
		switch {
		case errors.Is(err, io.EOF) && p != nil:
			return &wire.Empty{}, nil
		case errors.Is(err, io.EOF):
			return nil, wire.Errorf(wire.InvalidArgument, "input stream: no start message")
		case err != nil:
			return nil, err
		case msg.Start != nil:
			if p, err = a.procs.find(msg.Start.Process, false); err != nil {
				return nil, err
			}
		case msg.Data != nil && p == nil:
			return nil, wire.Errorf(wire.InvalidArgument, "input stream: the first message must be start")
		case msg.Data != nil:
			if err := p.input.write(ctx, msg.Data.Input); err != nil {
				return nil, err
			}
		}
	}
}

// killWait is how long the answer to a SIGKILL waits for the end it brings, so
// that a client who kills twice hears of it. Only a process the kernel cannot
// stop right now takes longer.
const killWait = 2 * time.Second

func (a *Agent) sendSignal(ctx context.Context, req *wire.SendSignalRequest) (*wire.Empty, error) {
	if req.Signal < 1 || req.Signal > 64 {
		return nil, wire.Errorf(wire.InvalidArgument, "invalid signal: %v", req.Signal)
	}
	p, err := a.procs.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	err = p.signal(syscall.Signal(req.Signal))
	switch {
	case errors.Is(err, os.ErrProcessDone), errors.Is(err, syscall.ESRCH):
		return nil, wire.Errorf(wire.NotFound, "process with pid %d not found", p.child.PID())
	case err != nil:
		return nil, wire.Errorf(wire.Internal, "send signal: %v", reason(err))
	}
	if req.Signal == wire.SIGKILL {
		late := time.NewTimer(killWait)
		defer late.Stop()
		select {
		case <-p.child.Done():
		case <-late.C:
		case <-ctx.Done():
		}
	}
	return &wire.Empty{}, nil
}

func (a *Agent) closeStdin(_ context.Context, req *wire.CloseStdinRequest) (*wire.Empty, error) {
	p, err := a.procs.find(req.Process, false)
	switch {
	case err != nil:
		return nil, err
	case p.input.pty:
		return nil, wire.Errorf(wire.FailedPrecondition, "the process has a pty: send ctrl+D (0x04) instead of closing stdin")
	case p.input.file == nil:
		return nil, wire.Errorf(wire.FailedPrecondition, "the process was started without stdin")
	}
	p.input.close()
	return &wire.Empty{}, nil
}

// userOf returns whom a request acts for: HTTP Basic's user, else the default.
func (a *Agent) userOf(r *http.Request) (account, error) {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") {
		return a.account("")
	}
	raw, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return account{}, wire.Errorf(wire.Unauthenticated, "authorization: not base64")
	}
	// The password is empty and the user may be uid:gid, so only the last
	// colon is cut off.
	return a.account(strings.TrimSuffix(string(raw), ":"))
}

// account returns the user of a name, or the default user: the workspace's,
// else the image's, else the one the agent runs as.
func (a *Agent) account(name string) (account, error) {
	st := a.state.Load()
	for _, def := range []string{st.user, st.image.User, strconv.Itoa(os.Geteuid())} {
		if name == "" {
			name = def
		}
	}
	return a.accounts.lookup(name)
}
