package api_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

// shop is a site with one workspace, whose commands run on this machine as root.
func shop(t *testing.T) (s *site, at string) {
	t.Helper()
	needs.Root(t)
	s = newSite(t)
	return s, "/v1/workspaces/" + string(s.workspace(fakehost.AdminKey).ID)
}

func run(s *site, at, body string) api.ExecResult {
	s.t.Helper()
	return must[api.ExecResult](s, ask{key: fakehost.AdminKey, method: "POST", path: at + "/exec", body: body})
}

func TestCommandsAnswerWithWhatTheyWrote(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	dir := t.TempDir()
	code := func(n int) *int { return &n }
	for body, want := range map[string]api.ExecResult{
		`{"command":["printf","%s","a b"]}`:                                        {ExitCode: code(0), Stdout: "a b"},
		`{"shell":"echo out; echo err >&2; exit 3"}`:                               {ExitCode: code(3), Stdout: "out\n", Stderr: "err\n"},
		`{"shell":"kill -9 $$"}`:                                                   {ExitCode: code(137), Signal: 9},
		`{"shell":"cat","stdin":"twelve bytes"}`:                                   {ExitCode: code(0), Stdout: "twelve bytes"},
		`{"shell":"cat","stdin_base64":"/wA=","binary":true}`:                      {ExitCode: code(0), StdoutBase64: []byte{0xff, 0}},
		`{"shell":"cat","stdin_base64":"/wA="}`:                                    {ExitCode: code(0), Stdout: "\uFFFD\x00"},
		`{"shell":"wc -c"}`:                                                        {ExitCode: code(0), Stdout: "0\n"},
		`{"shell":"pwd","cwd":"` + dir + `"}`:                                      {ExitCode: code(0), Stdout: dir + "\n"},
		`{"shell":"echo $A","env":{"A":"b"}}`:                                      {ExitCode: code(0), Stdout: "b\n"},
		`{"shell":"id -un","user":"nobody"}`:                                       {ExitCode: code(0), Stdout: "nobody\n"},
		`{"shell":"stty size","tty":true,"size":{"cols":90,"rows":30},"stdin":""}`: {ExitCode: code(0), Stdout: "30 90\r\n"},
		`{"shell":"head -c 3000000 /dev/zero | tr '\\0' x"}`:                       {ExitCode: code(0), Stdout: strings.Repeat("x", 1<<20), Truncated: true},
		`{"shell":"sleep 1000","timeout_s":1}`:                                     {ExitCode: code(137), Signal: 9, TimedOut: true},
	} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			got := run(&site{t, s.host, s.url}, at, body)
			if got.Pid == 0 {
				t.Error("it has no pid")
			}
			got.Pid = 0
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			if string(a) != string(b) {
				t.Errorf("%.300s, want %.300s", a, b)
			}
		})
	}
}

func TestBadCommandsAreNamed(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	for body, says := range map[string]string{
		`{}`:                            "one of command",
		`{"command":["a"],"shell":"b"}`: "one of command",
		`{"command":[""]}`:              "command[0] is empty",
		`{"shell":"x","stdin":"","stdin_base64":""}`:          "use one",
		`{"shell":"x","timeout_s":-1}`:                        "timeout is -1",
		`{"shell":"x","tty":true,"size":{"cols":0,"rows":1}}`: "size",
		`{"shell":"x","detach":true,"tty":true}`:              "detached",
		`{"shell":"x","open_stdin":true}`:                     "WebSocket",
		`{"shel":"x"}`:                                        `unknown field \"shel\"`,
		`{"command":["no-such-program-here"]}`:                "no-such-program-here",
		`{"shell":"x","user":"nobody-here"}`:                  "nobody-here",
	} {
		resp, reply := s.do(ask{key: fakehost.AdminKey, method: "POST", path: at + "/exec", body: body})
		if resp.StatusCode >= 500 || resp.StatusCode < 400 || !strings.Contains(reply, says) {
			t.Errorf("%s: %s %s", body, resp.Status, reply)
		}
	}
}

// events reads server-sent events as name and data.
func events(t *testing.T, resp *http.Response) func() (name, data string) {
	t.Helper()
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("it is %s, %s", ct, resp.Status)
	}
	in := bufio.NewScanner(resp.Body)
	return func() (name, data string) {
		for in.Scan() {
			field, value, _ := strings.Cut(in.Text(), ": ")
			switch {
			case field == "event":
				name = value
			case field == "data":
				data = value
			case in.Text() == "" && name != "":
				return name, data
			}
		}
		return "", ""
	}
}

var asEvents = http.Header{"Accept": {"text/event-stream"}}

func TestOutputIsToldAsItComes(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	fifo := filepath.Join(t.TempDir(), "go-on")
	body := fmt.Sprintf(`{"shell":"echo one; mkfifo %[1]s; cat %[1]s; echo two >&2; exit 7"}`, fifo)
	next := events(t, s.send(t.Context(), ask{key: fakehost.AdminKey, method: "POST", path: at + "/exec", body: body, header: asEvents}))
	if name, data := next(); name != "start" || !strings.Contains(data, `"pid":`) {
		t.Fatal(name, data)
	}
	if name, data := next(); name != "stdout" || data != `{"data":"`+base64.StdEncoding.EncodeToString([]byte("one\n"))+`"}` {
		t.Fatal(name, data)
	}
	run(s, at, fmt.Sprintf(`{"shell":"until [ -p %[1]s ]; do sleep 0.01; done; echo three >%[1]s"}`, fifo))
	said := map[string]string{} // the two streams come in any order
	for range 2 {
		name, data := next()
		var d struct{ Data []byte }
		_ = json.Unmarshal([]byte(data), &d)
		said[name] += string(d.Data)
	}
	if said["stdout"] != "three\n" || said["stderr"] != "two\n" {
		t.Errorf("%q", said)
	}
	if name, data := next(); name != "exit" || !strings.Contains(data, `"exit_code":7`) {
		t.Error(name, data)
	}
	resp, reply := s.do(ask{key: fakehost.AdminKey, method: "POST", path: at + "/exec", body: `{"command":["no-such-program"]}`, header: asEvents})
	if resp.StatusCode != 400 || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("what is refused before the first event has its status: %s %s", resp.Status, reply)
	}
}

func TestCommandOfACallerWhoLeftIsKilled(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	for _, h := range []http.Header{asEvents, nil} {
		fifo := filepath.Join(t.TempDir(), "alive")
		run(s, at, `{"command":["mkfifo","`+fifo+`"]}`)
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			req, _ := http.NewRequestWithContext(ctx, "POST", s.url+at+"/exec", strings.NewReader(`{"shell":"exec 3>`+fifo+`; echo up >&3; sleep 1000"}`))
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-API-Key", fakehost.AdminKey)
			if h != nil {
				req.Header.Set("Accept", h.Get("Accept"))
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = bufio.NewReader(resp.Body).ReadString(0)
				_ = resp.Body.Close()
			}
		}()
		f, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(f)
		if l, _ := r.ReadString('\n'); l != "up\n" {
			t.Fatal(l)
		}
		leave()
		_, _ = r.ReadString('\n') // ends when the last writer is gone
		_ = f.Close()
		<-done
	}
}

func TestDetachedCommandsAreListedAndSignalled(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	pid := run(s, at, `{"command":["sleep","1000"],"detach":true}`).Pid
	list := func() string {
		_, body := s.do(ask{key: fakehost.AdminKey, method: "GET", path: at + "/processes"})
		return body
	}
	if body := list(); !strings.Contains(body, fmt.Sprintf(`"pid":%d`, pid)) || !strings.Contains(body, `["sleep","1000"]`) {
		t.Error(body)
	}
	kill := func(pid int, signal string) int {
		resp, _ := s.do(ask{key: fakehost.AdminKey, method: "POST", path: fmt.Sprintf("%s/processes/%d/signal", at, pid), body: `{"signal":"` + signal + `"}`})
		return resp.StatusCode
	}
	for signal, want := range map[string]int{"NOSUCH": 400, "": 400, "0": 400, "65": 400, "SIGCONT": 204} {
		if got := kill(pid, signal); got != want {
			t.Errorf("%q: %d", signal, got)
		}
	}
	if got := kill(pid, "kill"); got != 204 {
		t.Error(got)
	}
	for strings.Contains(list(), "1000") { // its end follows the signal, and is noticed soon
		if t.Context().Err() != nil {
			t.Fatal("it does not end")
		}
	}
	if got := kill(pid, "TERM"); got != 404 {
		t.Error(got)
	}
}

// dial opens a WebSocket to run a command.
func (s *site) dial(at, key string, protocols ...string) *websocket.Conn {
	s.t.Helper()
	o := &websocket.DialOptions{Subprotocols: append([]string{"dayfly.v1"}, protocols...), HTTPHeader: http.Header{}}
	if key != "" {
		o.HTTPHeader.Set("Authorization", "Bearer "+key)
	}
	c, resp, err := websocket.Dial(s.t.Context(), s.url+at+"/exec", o)
	if err != nil {
		s.t.Fatal(err, resp)
	}
	s.t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

func say(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// hear reads messages to the end: the text ones, and what came on each channel.
func hear(t *testing.T, c *websocket.Conn) (said []api.ExecEvent, out [3]string, end websocket.StatusCode) {
	t.Helper()
	for {
		kind, b, err := c.Read(t.Context())
		if err != nil {
			return said, out, websocket.CloseStatus(err)
		}
		if kind == websocket.MessageBinary {
			out[b[0]] += string(b[1:])
			continue
		}
		var e api.ExecEvent
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		said = append(said, e)
	}
}

func TestCommandOverAWebSocket(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	c := s.dial(at, fakehost.AdminKey)
	say(t, c, `{"shell":"cat; echo done >&2; exit 4","open_stdin":true}`)
	for _, part := range []string{"one ", "two"} {
		if err := c.Write(t.Context(), websocket.MessageBinary, append([]byte{0}, part...)); err != nil {
			t.Fatal(err)
		}
	}
	say(t, c, `{"type":"close_stdin"}`)
	said, out, end := hear(t, c)
	if len(said) != 2 || said[0].Type != "start" || said[0].Pid == 0 || said[1].Type != "exit" || *said[1].ExitCode != 4 {
		t.Errorf("it said %+v", said)
	}
	if out[1] != "one two" || out[2] != "done\n" || end != websocket.StatusNormalClosure {
		t.Errorf("%q, %v", out, end)
	}
}

func TestTerminalOverAWebSocket(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	token := must[struct{ Token string }](s, ask{key: fakehost.AdminKey, method: "POST", path: at + "/token"}).Token
	c := s.dial(at, "", token)
	if c.Subprotocol() != "dayfly.v1" {
		t.Errorf("protocol %q", c.Subprotocol())
	}
	say(t, c, `{"shell":"stty size; read line; stty size; trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done","tty":true,"size":{"cols":80,"rows":24}}`)
	var out string
	until := func(text string) {
		for !strings.Contains(out, text) {
			kind, b, err := c.Read(t.Context())
			if err != nil {
				t.Fatal(err, out)
			}
			if kind == websocket.MessageBinary {
				out += string(b[1:])
			}
		}
	}
	until("24 80")
	say(t, c, `{"type":"resize","size":{"cols":100,"rows":50}}`)
	if err := c.Write(t.Context(), websocket.MessageBinary, []byte("\x00\n")); err != nil {
		t.Fatal(err)
	}
	until("50 100")
	until("ready")
	say(t, c, `{"type":"signal","signal":"USR1"}`)
	if said, _, end := hear(t, c); len(said) != 1 || *said[0].ExitCode != 9 || end != websocket.StatusNormalClosure {
		t.Errorf("%+v, %v", said, end)
	}
}

func TestBadMessagesEndAWebSocket(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	for _, c := range []struct{ first, then, says string }{
		{`not json`, "", "not JSON"},
		{`{"shell":"true","x":1}`, "", "unknown field"},
		{`{"shell":"true","detach":true}`, "", "not for a WebSocket"},
		{`{"command":["no-such-program"]}`, "", "no-such-program"},
		{`{"shell":"sleep 1000"}`, `{"type":"dance"}`, "use resize"},
		{`{"shell":"sleep 1000"}`, `{"type":"resize"}`, "resize"},
		{`{"shell":"sleep 1000"}`, `{"type":"signal","signal":"x"}`, "signal is"},
	} {
		conn := s.dial(at, fakehost.AdminKey)
		say(t, conn, c.first)
		if c.then != "" {
			say(t, conn, c.then)
		}
		said, _, end := hear(t, conn)
		if len(said) == 0 || said[len(said)-1].Problem == nil || !strings.Contains(said[len(said)-1].Problem.Detail, c.says) || end != websocket.StatusPolicyViolation {
			t.Errorf("%s %s: %+v, %v", c.first, c.then, said, end)
		}
	}
	resp, body := s.do(ask{key: fakehost.AdminKey, method: "GET", path: at + "/exec"})
	if resp.StatusCode != 400 || !strings.Contains(body, "this is a WebSocket") {
		t.Errorf("%s %s", resp.Status, body)
	}
	resp, body = s.do(ask{key: fakehost.AdminKey, method: "GET", path: at + "/exec", header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"1"}}})
	if resp.StatusCode != 400 || !strings.Contains(body, `"kind":"invalid"`) {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestRevokedKeyEndsAWebSocket(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	made := must[api.NewKey](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/keys", body: `{}`})
	c := s.dial(at, made.Secret)
	say(t, c, `{"shell":"echo up; sleep 1000"}`)
	if _, _, err := c.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	must[struct{}](s, ask{key: fakehost.AdminKey, method: "DELETE", path: "/v1/keys/" + made.Key.ID})
	if said, _, _ := hear(t, c); len(said) == 0 || said[len(said)-1].Problem == nil || said[len(said)-1].Problem.Status != 401 {
		t.Errorf("%+v", said)
	}
}
