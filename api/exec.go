package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// maxOutput bounds what is kept of each stream of a command whose output is not
// a stream itself.
const maxOutput = 1 << 20

// Exec answers POST /v1/workspaces/{id}/exec.
func (s routes) Exec(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		var body Exec
		if err := readJSON(w, r, &body); err != nil {
			return err
		}
		if body.OpenStdin {
			return dayfly.Errorf(dayfly.Invalid, "open_stdin is for a WebSocket: send stdin, or connect")
		}
		if err := body.check(); err != nil {
			return err
		}
		switch {
		case body.Detach:
			return s.detached(w, r, id, body)
		case wantsEvents(r):
			s.stream(w, r, func(ctx context.Context, out *sse) error { return s.told(ctx, out, id, body) })
			return nil
		}
		return s.gathered(w, r, id, body)
	})
}

// detached starts a command and leaves it alone.
func (s *Server) detached(w http.ResponseWriter, r *http.Request, id dayfly.ID, x Exec) error {
	ctx := context.WithoutCancel(r.Context())
	c, err := s.begin(ctx, id, x, x.input() != nil)
	if err != nil {
		return err
	}
	if in := x.input(); in != nil {
		c.feed(ctx, in)
	}
	c.close()
	s.reply(w, r, http.StatusOK, ExecResult{Pid: c.pid})
	return nil
}

// gathered runs a command and answers with what it wrote, as far as it fits.
func (s *Server) gathered(w http.ResponseWriter, r *http.Request, id dayfly.ID, x Exec) error {
	c, err := s.begin(r.Context(), id, x, x.input() != nil)
	if err != nil {
		return err
	}
	var kept [3][]byte
	reply := ExecResult{Pid: c.pid}
	o, err := c.run(r.Context(), x.input(), func(channel byte, data []byte) error {
		room := maxOutput - len(kept[channel])
		if len(data) > room {
			data, reply.Truncated = data[:room], true
		}
		kept[channel] = append(kept[channel], data...)
		return nil
	})
	if err != nil {
		return err
	}
	reply.ExitCode, reply.Signal, reply.TimedOut = &o.code, o.signal, o.timedOut
	if x.Binary {
		reply.StdoutBase64, reply.StderrBase64 = kept[stdout], kept[stderr]
	} else {
		reply.Stdout = strings.ToValidUTF8(string(kept[stdout]), "\uFFFD")
		reply.Stderr = strings.ToValidUTF8(string(kept[stderr]), "\uFFFD")
	}
	s.reply(w, r, http.StatusOK, reply)
	return nil
}

// told runs a command and sends what happens to it as events.
func (s *Server) told(ctx context.Context, out *sse, id dayfly.ID, x Exec) error {
	c, err := s.begin(ctx, id, x, x.input() != nil)
	if err != nil {
		return err
	}
	names := [...]string{stdout: "stdout", stderr: "stderr"}
	type chunk struct {
		Data string `json:"data"`
	}
	if err := out.send(event{name: "start", data: ExecResult{Pid: c.pid}}); err != nil {
		c.end(ctx)
		c.close()
		return err
	}
	o, err := c.run(ctx, x.input(), func(channel byte, data []byte) error {
		return out.send(event{name: names[channel], data: chunk{base64.StdEncoding.EncodeToString(data)}})
	})
	if err != nil {
		return err
	}
	return out.send(event{name: "exit", data: ExecResult{Pid: c.pid, ExitCode: &o.code, Signal: o.signal, TimedOut: o.timedOut}})
}

// ListProcesses answers GET /v1/workspaces/{id}/processes.
func (s routes) ListProcesses(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		var list wire.ListResponse
		if err := s.ask(r.Context(), id, "", procedure{wire.ProcessList, wire.ListRequest{}, &list}); err != nil {
			return err
		}
		reply := ProcessList{Processes: []Process{}}
		for _, p := range list.Processes {
			one := Process{Pid: int(p.PID), Command: append([]string{p.Config.Cmd}, p.Config.Args...)}
			if p.Config.Cwd != nil {
				one.Cwd = *p.Config.Cwd
			}
			reply.Processes = append(reply.Processes, one)
		}
		s.reply(w, r, http.StatusOK, reply)
		return nil
	})
}

// SignalProcess answers POST /v1/workspaces/{id}/processes/{pid}/signal.
func (s routes) SignalProcess(w http.ResponseWriter, r *http.Request, id WorkspaceID, pid PID) {
	s.inGuest(w, r, id, func(id dayfly.ID) error {
		var body SignalProcess
		if err := readJSON(w, r, &body); err != nil {
			return err
		}
		sig, err := parseSignal(body.Signal)
		if err != nil {
			return err
		}
		const maxPID = 1 << 22 // the kernel's own limit
		if pid < 1 || pid > maxPID {
			return dayfly.Errorf(dayfly.Invalid, "pid is %d: use one of those listed", pid)
		}
		req := wire.SendSignalRequest{Process: &wire.ProcessSelector{PID: uint32(pid)}, Signal: sig}
		if err := s.ask(r.Context(), id, "", procedure{wire.ProcessSendSignal, req, nil}); err != nil {
			return err
		}
		noContent(w)
		return nil
	})
}

func parseSignal(name string) (wire.Signal, error) {
	if sig, ok := wire.ParseSignal(name); ok {
		return sig, nil
	}
	return 0, dayfly.Errorf(dayfly.Invalid, "signal is %q: use a name such as TERM, or 1 to 64", clip(name))
}

// procedure is a call of one request and one answer.
type procedure struct {
	name      string
	req, resp any
}

// ask calls a procedure of a guest on behalf of a user.
func (s *Server) ask(ctx context.Context, id dayfly.ID, user string, p procedure) error {
	bounded, cancel := context.WithTimeout(ctx, guestTime)
	defer cancel()
	return guestError(ctx, id, s.agentOf(id, user).Unary(bounded, p.name, p.req, p.resp))
}

// inGuest answers r with do's error, if its path names a workspace and this
// server reaches into workspaces.
func (s *Server) inGuest(w http.ResponseWriter, r *http.Request, ref string, do func(dayfly.ID) error) {
	s.try(w, r, s.o.Guests != nil, errNoGuests, func() error {
		id, err := s.resolve(r, ref)
		if err != nil {
			return err
		}
		return do(id)
	})
}
