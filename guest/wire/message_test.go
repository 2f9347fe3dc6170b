package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMessagesHaveProto3JSONNames(t *testing.T) {
	t.Parallel()
	text, cwd, target := "exit status 2", "/x", "/t"
	for _, c := range []struct {
		msg  any
		want string
	}{
		{EventResponse{ProcessEvent{Start: &StartEvent{7}}}, `{"event":{"start":{"pid":7}}}`},
		{EventResponse{ProcessEvent{Data: &DataEvent{Stdout: Bytes("hi\n")}}}, `{"event":{"data":{"stdout":"aGkK"}}}`},
		{EventResponse{ProcessEvent{Data: &DataEvent{Stderr: Bytes{0xff}}}}, `{"event":{"data":{"stderr":"/w=="}}}`},
		{EventResponse{ProcessEvent{Data: &DataEvent{PTY: Bytes("x")}}}, `{"event":{"data":{"pty":"eA=="}}}`},
		{EventResponse{ProcessEvent{Keepalive: &Empty{}}}, `{"event":{"keepalive":{}}}`},
		{EventResponse{ProcessEvent{End: &EndEvent{ExitCode: 2, Exited: true, Status: text, Error: &text}}},
			`{"event":{"end":{"exitCode":2,"exited":true,"status":"exit status 2","error":"exit status 2"}}}`},
		{StartRequest{Process: &ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", "x"}, Cwd: &cwd}, PTY: &PTY{&Size{80, 24}}},
			`{"process":{"cmd":"/bin/sh","args":["-c","x"],"cwd":"/x"},"pty":{"size":{"cols":80,"rows":24}}}`},
		{SendSignalRequest{&ProcessSelector{PID: 3}, SIGTERM}, `{"process":{"pid":3},"signal":"SIGNAL_SIGTERM"}`},
		{EntryInfo{Name: "f", Type: FileRegular, Size: 1 << 40, Mode: 0o644, ModifiedTime: time.Unix(1, 5).UTC(), SymlinkTarget: &target},
			`{"name":"f","type":"FILE_TYPE_FILE","size":"1099511627776","mode":420,"modifiedTime":"1970-01-01T00:00:01.000000005Z","symlinkTarget":"/t"}`},
		{WatchEvent{Filesystem: &FilesystemEvent{Name: "f", Type: EventCreate}}, `{"filesystem":{"name":"f","type":"EVENT_TYPE_CREATE"}}`},
		{WatcherID{"w"}, `{"watcherId":"w"}`},
	} {
		got, err := json.Marshal(c.msg)
		if err != nil || string(got) != c.want {
			t.Errorf("%T: got %s, %v\nwant %s", c.msg, got, err, c.want)
		}
		if e, ok := c.msg.(EventResponse); ok {
			var back EventResponse
			if err := json.Unmarshal(got, &back); err != nil || !cmp.Equal(back, e) {
				t.Errorf("%s does not come back: %v", got, cmp.Diff(back, e))
			}
		}
	}
}

func TestEveryFormProto3JSONAllowsIsRead(t *testing.T) {
	t.Parallel()
	for _, in := range []string{`"+/8="`, `"+/8"`, `"-_8="`, `"-_8"`} {
		var b Bytes
		if err := json.Unmarshal([]byte(in), &b); err != nil || !bytes.Equal(b, []byte{0xfb, 0xff}) {
			t.Errorf("%s: %x, %v", in, b, err)
		}
	}
	for in, want := range map[string]Signal{`"SIGNAL_SIGKILL"`: 9, `9`: 9, `"SIGNAL_SIGINT"`: 2, `"SIGNAL_UNSPECIFIED"`: 0, `null`: 0} {
		var s Signal
		if err := json.Unmarshal([]byte(in), &s); err != nil || s != want {
			t.Errorf("%s: %v, %v", in, s, err)
		}
	}
	for _, in := range []string{`"12"`, `12`} {
		var n Int64
		if err := json.Unmarshal([]byte(in), &n); err != nil || n != 12 {
			t.Errorf("%s: %v, %v", in, n, err)
		}
	}
	for _, in := range []string{`{"path":"p","includeEntry":true,"allowNetworkMounts":true}`, `{"path":"p","include_entry":true,"allow_network_mounts":true}`} {
		var w WatchRequest
		if err := json.Unmarshal([]byte(in), &w); err != nil || w != (WatchRequest{"p", false, true, true}) {
			t.Errorf("%s: %+v, %v", in, w, err)
		}
	}
	var id WatcherID
	if err := json.Unmarshal([]byte(`{"watcher_id":"w"}`), &id); err != nil || id.ID != "w" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, in := range []string{`"SIGNAL_NONE"`, `"x"`, `{}`, `1e99`} {
		if json.Unmarshal([]byte(in), new(Signal)) == nil {
			t.Errorf("%s is no signal", in)
		}
	}
}

func TestEverySignalComesBackFromItsText(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 31; n++ {
		ends := []EndEvent{{Status: "signal: " + syscall.Signal(n).String()}, {Status: "signal: " + syscall.Signal(n).String() + " (core dumped)"}}
		for _, end := range ends {
			if got, ok := SignalOf(end); !ok || got != n {
				t.Errorf("%q: got %d, %v, want %d", end.Status, got, ok, n)
			}
		}
		name := Signal(n).String()
		for _, form := range []string{name, name[3:], "SIGNAL_" + name, fmt.Sprint(n)} {
			if s, ok := ParseSignal(form); !ok || s != Signal(n) {
				t.Errorf("%q: got %d, %v", form, s, ok)
			}
		}
	}
	text := "signal: signal 34"
	if n, ok := SignalOf(EndEvent{Error: &text}); !ok || n != 34 {
		t.Errorf("real-time: %d, %v", n, ok)
	}
	for _, status := range []string{"", "exit status 9", "signal: ", "signal: made up", "signal: signal 99"} {
		if n, ok := SignalOf(EndEvent{Status: status}); ok {
			t.Errorf("%q: got %d", status, n)
		}
	}
	for in, want := range map[string]Signal{"RTMIN": 34, "SIGRTMIN+1": 35, "RTMAX": 64, "rtmax-2": 62, "iot": 6} {
		if s, ok := ParseSignal(in); !ok || s != want {
			t.Errorf("%q: got %d, %v", in, s, ok)
		}
	}
	for _, in := range []string{"", "0", "65", "-1", "RTMIN-1", "RTMAX+1", "NOPE", "SIG"} {
		if s, ok := ParseSignal(in); ok {
			t.Errorf("%q: got %d", in, s)
		}
	}
}

func TestStartFailureSurvivesTheWire(t *testing.T) {
	t.Parallel()
	for _, code := range []int{ExitCannotExecute, ExitNotFound} {
		b, err := json.Marshal(NewStartFailure(code, "x"))
		if err != nil {
			t.Fatal(err)
		}
		back := new(Error)
		if err := json.Unmarshal(b, back); err != nil {
			t.Fatal(err)
		}
		if got, ok := StartFailure(fmt.Errorf("run: %w", back)); !ok || got != code || back.Code != InvalidArgument {
			t.Errorf("%s: got %d, %v", b, got, ok)
		}
	}
	for _, err := range []error{nil, io.EOF, Errorf(NotFound, "x"), &Error{Details: []Detail{{startFailureType, nil}}}} {
		if n, ok := StartFailure(err); ok {
			t.Errorf("%v: got %d", err, n)
		}
	}
}

func TestEnvelopesAreBounded(t *testing.T) {
	t.Parallel()
	_, _, err := ReadEnvelope(bytes.NewReader([]byte{0, 0xff, 0xff, 0xff, 0xff}), nil, 100)
	if CodeOf(err) != ResourceExhausted {
		t.Errorf("got %v", err)
	}
	// A length alone must not allocate: the bytes have to come.
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, err = ReadEnvelope(bytes.NewReader([]byte{0, 3, 0xff, 0xff, 0xff}), nil, MaxResponse)
		}
	}).AllocedBytesPerOp()
	if !errors.Is(err, io.ErrUnexpectedEOF) || allocated > 2*readStep {
		t.Errorf("got %v after %d bytes", err, allocated)
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02{}\x02\x00\x00\x00\x02{}"))
	f.Add([]byte{2, 0, 0, 0, 4, 1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var buf []byte
		for {
			flags, payload, err := ReadEnvelope(r, buf, 1<<20)
			if err != nil {
				return
			}
			again, err := appendEnvelope(nil, flags, func(dst []byte) ([]byte, error) { return append(dst, payload...), nil })
			at := len(in) - r.Len()
			if err != nil || !bytes.Equal(again, in[at-len(again):at]) {
				t.Fatalf("%x came back as %x, %v", in, again, err)
			}
			_ = decodeEnd(payload)
			buf = payload[:0]
		}
	})
}

// requests is one value of every request a client may send.
func requests() []any {
	return []any{
		&ListRequest{}, &StartRequest{}, &ConnectRequest{}, &UpdateRequest{}, &SendInputRequest{}, &StreamInputRequest{},
		&SendSignalRequest{}, &CloseStdinRequest{}, &PathRequest{}, &MoveRequest{}, &ListDirRequest{}, &WatchRequest{},
		&WatcherID{}, &Init{},
	}
}

// FuzzRequest decodes any bytes as every message, and what decodes must encode
// to something that decodes to the same.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"process":{"cmd":"/bin/bash","args":["-l","-c","x"],"envs":{"A":"b"},"cwd":"/"},"pty":{"size":{"cols":80,"rows":24}},"tag":"t","stdin":true}`,
		`{"process":{"pid":1},"input":{"stdin":"aGk="},"signal":"SIGNAL_SIGTERM"}`,
		`{"start":{"process":{"tag":"x"}},"data":{"input":{"pty":"-_8"}},"keepalive":{}}`,
		`{"path":"~/x","depth":2,"recursive":true,"include_entry":true,"watcherId":"w","source":"a","destination":"b"}`,
		`{"accessToken":"t","envVars":{"A":"b"},"timestamp":"2026-01-01T00:00:00Z","root":{"image":"/dev/vda","disk":"/dev/vdb","disk_key":"AAAA"}}`,
		`{"event":{"end":{"exitCode":-1,"status":"signal: killed"},"data":{"stdout":"AA=="}}}`, `null`, `[]`, `{"signal":9}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, msg := range append(requests(), &EventResponse{}, &WatchEvent{}, &EntryInfo{}, &Error{}) {
			if json.Unmarshal(in, msg) != nil {
				continue
			}
			out, err := json.Marshal(msg)
			if err != nil {
				t.Fatalf("%T of %s: %v", msg, in, err)
			}
			if ev, ok := msg.(*EventResponse); ok && ev.Event.End != nil {
				_, _ = SignalOf(*ev.Event.End)
			}
			if e, ok := msg.(*Error); ok {
				_, _ = StartFailure(e)
			}
			if err := json.Unmarshal(out, msg); err != nil {
				t.Fatalf("%T: %s does not come back: %v", msg, out, err)
			}
		}
	})
}

// FuzzOutput: the quick way of reading output agrees with encoding/json.
func FuzzOutput(f *testing.F) {
	for _, s := range []string{`{"event":{"data":{"stdout":"aGkK"}}}`, `{"event":{"data":{"pty":""}}}`, `{"event":{"data":{"stderr":"aGk="}}}`,
		`{"event":{"data":{"stdout":"a\ngg="}}}`, `{"event":{"data":{"stdout":"aGkK","pty":"eA=="}}}`, `{"event":{"data":{"other":"aGkK"}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var quick, slow EventResponse
		if !quick.parseOutput(in) {
			return
		}
		if err := json.Unmarshal(in, &slow); err != nil || !bytes.Equal(quick.Event.Data.Stdout, slow.Event.Data.Stdout) ||
			!bytes.Equal(quick.Event.Data.Stderr, slow.Event.Data.Stderr) || !bytes.Equal(quick.Event.Data.PTY, slow.Event.Data.PTY) {
			t.Errorf("%q: %+v, but %+v, %v", in, quick.Event.Data, slow.Event.Data, err)
		}
	})
}

func BenchmarkEncodeOutput(b *testing.B) {
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = AppendMessage(make([]byte, 0, 64+len(chunk)*4/3), EventResponse{ProcessEvent{Data: &DataEvent{Stdout: chunk}}})
	}
}
