package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// copier is a machine whose part of everything works.
type copier struct {
	frozen  bool
	forward int64
}

func (c *copier) Freeze(context.Context) (wire.FreezeReply, error) {
	c.frozen = true
	return wire.FreezeReply{Processes: 3}, nil
}

func (c *copier) Rest(context.Context) error { return nil }

func (c *copier) Clock(_ context.Context, in wire.Clock) (wire.ClockReply, error) {
	c.forward += in.Forward
	return wire.ClockReply{Timestamp: "2026-01-02T03:04:05Z"}, nil
}

func (c *copier) Thaw(context.Context, wire.Thaw) error { c.frozen = false; return nil }

func (c *copier) Renew(_ context.Context, in wire.Renew, apply func(string) (string, error)) (wire.RenewReply, error) {
	if in.Generation == "" {
		return wire.RenewReply{}, dayfly.Errorf(dayfly.Invalid, "no generation")
	}
	var reply wire.RenewReply
	for _, step := range []string{wire.StepTokens, wire.StepEnv} {
		value, err := apply(step)
		if err != nil {
			return reply, err
		}
		reply.Confirmed = append(reply.Confirmed, wire.Confirmation{Name: step, Value: value})
	}
	return reply, nil
}

func (c *copier) Rehearse(_ context.Context, _ wire.Init, run func() (int, error)) (wire.RehearseReply, error) {
	code, err := run()
	return wire.RehearseReply{ExitCode: code}, err
}

func TestCopyRoutesAreTheInitsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	for _, path := range []string{wire.FreezePath, wire.ThawPath, wire.ClockPath, wire.RenewPath, wire.RestPath, wire.RehearsePath} {
		if resp, b := r.do("POST", path, strings.NewReader("{}")); resp.StatusCode != http.StatusNotImplemented {
			t.Errorf("%s: %s %s", path, resp.Status, b)
		}
		if resp, _ := r.do("GET", path, nil); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
	}
}

func TestFreezeAndThawReachTheMachine(t *testing.T) {
	t.Parallel()
	c := new(copier)
	r := newRig(t, Config{Copier: c})
	if resp, b := r.do("POST", wire.FreezePath, nil); resp.StatusCode != 200 || strings.TrimSpace(string(b)) != `{"processes":3}` || !c.frozen {
		t.Errorf("freeze: %s %s", resp.Status, b)
	}
	if resp, b := r.do("POST", wire.ThawPath, nil); resp.StatusCode != 204 || c.frozen {
		t.Errorf("thaw: %s %s", resp.Status, b)
	}
	for body, forward := range map[string]int64{"": 0, `{"forward_ns":-5}`: -5} {
		c.forward = 0
		resp, b := r.do("POST", wire.ClockPath, strings.NewReader(body))
		if resp.StatusCode != 200 || strings.TrimSpace(string(b)) != `{"timestamp":"2026-01-02T03:04:05Z"}` || c.forward != forward {
			t.Errorf("clock %s: %s %s", body, resp.Status, b)
		}
	}
}

func TestRenewReplacesWhatIsGivenAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{Copier: new(copier)})
	r.init(wire.Init{ID: "w1", AccessToken: "old", EnvVars: map[string]string{"A": "1"}, DefaultUser: "root", DefaultWorkdir: "/"})
	for _, c := range []struct{ body, token, env, confirmed string }{
		{`{"generation":"g"}`, "old", `{"A":"1"}`, "set 1 variables"},
		{`{"generation":"g","accessToken":"new","envVars":{"B":"2","C":"3"},"id":"w2"}`, "new", `{"B":"2","C":"3"}`, "set 2 variables"},
		{`{"generation":"g","accessToken":"","envVars":{}}`, "", `{}`, "none 0 variables"},
	} {
		resp, b := r.do("POST", wire.RenewPath, strings.NewReader(c.body))
		var reply wire.RenewReply
		if err := json.Unmarshal(b, &reply); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %s %s", c.body, resp.Status, b)
		}
		if got := reply.Confirmed[0].Value + " " + reply.Confirmed[1].Value; got != c.confirmed {
			t.Errorf("%s: confirmed %q, want %q", c.body, got, c.confirmed)
		}
		if resp, b := r.do("GET", "/envs", nil, tokenHeader, c.token); resp.StatusCode != 200 || strings.TrimSpace(string(b)) != c.env {
			t.Errorf("%s: %s %s", c.body, resp.Status, b)
		}
	}
	if st := r.state.Load(); st.id != "w2" || st.user != "root" || st.workdir != "/" {
		t.Errorf("the state is %+v", st)
	}
	for _, bad := range []string{`{`, `{}`, `{"generation":"g","envVars":{"a=b":"c"}}`} {
		if resp, b := r.do("POST", wire.RenewPath, strings.NewReader(bad)); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s %s", bad, resp.Status, b)
		}
	}
}

func TestRehearsalStartsTheCommandAndForgetsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{Copier: new(copier)})
	for _, c := range []struct {
		argv   string
		status int
		want   string
	}{
		{`["/bin/sh","-c","echo $A; exit 7"]`, 200, `"exit_code":7`},
		{`["/no/such/program"]`, 503, "no such file"},
		{`[]`, 400, "argv"},
	} {
		resp, b := r.do("POST", wire.RehearsePath, strings.NewReader(`{"init":{"id":"r","accessToken":"t","envVars":{"A":"x"}},"argv":`+c.argv+`}`))
		if resp.StatusCode != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s: %s %s", c.argv, resp.Status, b)
		}
	}
	if st := r.state.Load(); st.id != "" || st.token != "" || len(r.procs.exited) != 0 {
		t.Errorf("left behind: %+v, %d ended processes", st, len(r.procs.exited))
	}
}

func TestPreStartShapesTheProcess(t *testing.T) {
	t.Parallel()
	var asked, done bool
	r := newRig(t, Config{PreStart: func(attr *syscall.SysProcAttr) (func(), error) {
		asked = attr.Setsid
		return func() { done = true }, nil
	}})
	run(t, r.cli, sh("true"))
	if !asked || !done {
		t.Errorf("PreStart was asked: %v, and told that it is done: %v", asked, done)
	}
}

func TestPreStartMayRefuse(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{PreStart: func(*syscall.SysProcAttr) (func(), error) { return nil, errors.New("frozen") }})
	if err := startError(t, r.cli, sh("true")); wire.CodeOf(err) != wire.Unavailable || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("Start = %v", err)
	}
}
