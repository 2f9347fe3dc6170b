package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// Copier is what an agent needs of its machine to serve a workspace that is
// paused, restored and copied. A *dayfly.Error reaches the host as it is.
type Copier interface {
	// Freeze stops all processes of the workspace and Thaw lets them go on, at
	// the time it is given. Both may be repeated.
	Freeze(context.Context) (wire.FreezeReply, error)
	Thaw(context.Context, wire.Thaw) error

	// Clock moves the wall clock and says what it is then.
	Clock(context.Context, wire.Clock) (wire.ClockReply, error)

	// Renew makes a restored copy one of its own. apply carries out the agent's
	// steps, wire.StepTokens and wire.StepEnv, and returns what it set.
	Renew(ctx context.Context, in wire.Renew, apply func(step string) (string, error)) (wire.RenewReply, error)

	// Rest lets the disk stand still until a Renew with a key for it.
	Rest(context.Context) error

	// Rehearse goes through a start and undoes it. run starts the command in
	// the goroutine it is called in and waits for its end.
	Rehearse(ctx context.Context, in wire.Init, run func() (exitCode int, err error)) (wire.RehearseReply, error)
}

// serveCopy serves what the host alone asks of a machine that is copied, and
// says whether the path is one of it.
func (a *Agent) serveCopy(w http.ResponseWriter, r *http.Request) bool {
	var serve http.HandlerFunc
	switch r.URL.Path {
	case wire.FreezePath:
		serve = a.serveFreeze
	case wire.ThawPath:
		serve = a.serveThaw
	case wire.ClockPath:
		serve = a.serveClock
	case wire.RenewPath:
		serve = a.serveRenew
	case wire.RestPath:
		serve = a.serveRest
	case wire.RehearsePath:
		serve = a.serveRehearse
	default:
		return false
	}
	if a.cfg.Copier == nil {
		serve = func(w http.ResponseWriter, r *http.Request) {
			writeError(w, http.StatusNotImplemented, r.URL.Path[1:]+": this agent is not the init of a machine")
		}
	}
	onMethod(w, r, http.MethodPost, serve)
	return true
}

func (a *Agent) serveFreeze(w http.ResponseWriter, r *http.Request) {
	reply, err := a.cfg.Copier.Freeze(r.Context())
	if err != nil {
		a.failHost(w, r, err)
		return
	}
	writeJSON(w, reply)
}

func (a *Agent) serveThaw(w http.ResponseWriter, r *http.Request) {
	var in wire.Thaw
	if err := readHost(w, r, &in); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.cfg.Copier.Thaw(r.Context(), in); err != nil {
		a.failHost(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) serveClock(w http.ResponseWriter, r *http.Request) {
	var in wire.Clock
	if err := readHost(w, r, &in); err != nil {
		a.fail(w, r, err)
		return
	}
	reply, err := a.cfg.Copier.Clock(r.Context(), in)
	if err != nil {
		a.failHost(w, r, err)
		return
	}
	writeJSON(w, reply)
}

// serveRest also forgets the processes that have ended: they were nobody's.
func (a *Agent) serveRest(w http.ResponseWriter, r *http.Request) {
	a.accounts.forget()
	a.procs.forgetExited()
	if err := a.cfg.Copier.Rest(r.Context()); err != nil {
		a.failHost(w, r, err)
		return
	}
	learnRenew()
	w.WriteHeader(http.StatusNoContent)
}

// learnRenew lets the decoder and the encoder find out about the types of a
// Renew, which comes next, here rather than in each of the copies.
func learnRenew() {
	if err := json.Unmarshal([]byte("{}"), new(wire.Renew)); err != nil {
		panic(err) // a type that cannot be decoded
	}
	if _, err := json.Marshal(wire.RenewReply{}); err != nil {
		panic(err)
	}
}

// takeTurn waits until no other call of the host's changes the state. done
// gives the turn back.
func (a *Agent) takeTurn(ctx context.Context) (done func(), ok bool) {
	select {
	case a.initTurn <- struct{}{}:
		return func() { <-a.initTurn }, true
	case <-ctx.Done():
		return nil, false
	}
}

func (a *Agent) serveRenew(w http.ResponseWriter, r *http.Request) {
	done, ok := a.takeTurn(r.Context())
	if !ok {
		return
	}
	defer done()
	var in wire.Renew
	if err := readHost(w, r, &in); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := checkRenew(&in); err != nil {
		a.fail(w, r, err)
		return
	}
	reply, err := a.cfg.Copier.Renew(r.Context(), in, func(step string) (string, error) { return a.renew(&in, step) })
	if err != nil {
		a.failHost(w, r, err)
		return
	}
	writeJSON(w, reply)
}

func checkRenew(in *wire.Renew) error {
	as := wire.Init{EnvVars: in.EnvVars, DefaultUser: in.DefaultUser, DefaultWorkdir: in.DefaultWorkdir, ID: in.ID, Hostname: in.Hostname}
	if in.AccessToken != nil {
		as.AccessToken = *in.AccessToken
	}
	return checkInit(&as)
}

// renew carries out the agent's own steps of a Renew.
func (a *Agent) renew(in *wire.Renew, step string) (string, error) {
	next := *a.state.Load()
	switch step {
	case wire.StepTokens:
		if in.AccessToken != nil {
			next.token = *in.AccessToken
		}
		a.state.Store(&next)
		if a.state.Load().token == "" {
			return "none", nil
		}
		return "set", nil
	case wire.StepEnv:
		if in.ID != "" {
			next.id = in.ID
		}
		if in.EnvVars != nil {
			next.env = maps.Clone(in.EnvVars)
		}
		if in.DefaultUser != "" {
			next.user = in.DefaultUser
		}
		if in.DefaultWorkdir != "" {
			next.workdir = in.DefaultWorkdir
		}
		a.state.Store(&next)
		return strconv.Itoa(len(a.state.Load().env)) + " variables", nil
	}
	return "", dayfly.Errorf(dayfly.Internal, "renew: the agent has no step %q", step)
}

// serveRehearse goes through a start whose traces are removed again, here as in
// the machine.
func (a *Agent) serveRehearse(w http.ResponseWriter, r *http.Request) {
	done, ok := a.takeTurn(r.Context())
	if !ok {
		return
	}
	defer done()
	var in wire.Rehearse
	err := readHost(w, r, &in)
	if err == nil {
		err = checkInit(&in.Init)
	}
	if err == nil && len(in.Argv) == 0 {
		err = refusal(http.StatusBadRequest, "rehearse: argv: name a command")
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	before := a.state.Load()
	reply, err := a.cfg.Copier.Rehearse(r.Context(), in.Init, func() (int, error) {
		a.state.Store(before.with(in.Init))
		defer a.state.Store(before)
		return a.perform(r.Context(), in.Argv)
	})
	a.accounts.forget()
	a.procs.forgetExited()
	if err != nil {
		a.failHost(w, r, err)
		return
	}
	writeJSON(w, reply)
}

// readHost reads a request of the host's.
func readHost(w http.ResponseWriter, r *http.Request, out any) error {
	name := r.URL.Path[1:]
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxInitBody))
	if err != nil {
		return refusal(http.StatusRequestEntityTooLarge, name+": "+err.Error())
	}
	if len(body) > 0 {
		if err := json.Unmarshal(body, out); err != nil {
			return refusal(http.StatusBadRequest, name+": "+err.Error())
		}
	}
	return nil
}

// perform runs a command through this agent's own API, in this goroutine, and
// returns how it ended.
func (a *Agent) perform(ctx context.Context, argv []string) (exitCode int, err error) {
	req, err := wire.AppendMessage(nil, &wire.StartRequest{Process: &wire.ProcessConfig{Cmd: argv[0], Args: argv[1:]}})
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, wire.ProcessStart, bytes.NewReader(req))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/connect+json")
	r.Header.Set("Connect-Protocol-Version", "1")
	r.Header.Set(tokenHeader, a.state.Load().token)
	out := &record{header: http.Header{}}
	a.serve(out, r)
	return out.exitCode()
}

// maxRecord bounds what is kept of a rehearsed command's answer.
const maxRecord = 1 << 20

// record is the answer to a request of our own.
type record struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *record) Header() http.Header { return r.header }

func (r *record) WriteHeader(status int) { r.status = status }

func (r *record) Flush() {}

func (r *record) Write(p []byte) (int, error) {
	if r.body.Len()+len(p) > maxRecord {
		return 0, errors.New("rehearse: the command says too much")
	}
	return r.body.Write(p)
}

// exitCode reads the events of a Start to their end.
func (r *record) exitCode() (int, error) {
	code, ended := 0, false
	for {
		flags, payload, err := wire.ReadEnvelope(&r.body, nil, maxRecord)
		if err != nil {
			break
		}
		var ev wire.EventResponse
		if flags != 0 { // the end of the stream: an error, or nothing
			if !ended {
				return 0, dayfly.Errorf(dayfly.Unavailable, "rehearse: the command cannot be started: %s", payload)
			}
			break
		}
		if err := json.Unmarshal(payload, &ev); err != nil {
			return 0, err
		}
		if end := ev.Event.End; end != nil {
			code, ended = int(end.ExitCode), true
		}
	}
	if !ended {
		return 0, dayfly.Errorf(dayfly.Unavailable, "rehearse: the command did not end")
	}
	return code, nil
}
